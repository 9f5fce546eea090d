// Checks that the page reads only fields that the API's OpenAPI document has.
//
// A missing field reads as `undefined`, and the page would show an empty value: a wrong name looks
// like good news. So the test wraps responses, and looks up each name that was read in vain.

/** Runs in the page before its scripts: wraps responses, and records reads of missing fields. */
export function watch() {
  const missed = new Map();
  const seen = new WeakMap();
  const silent = /^(then|toJSON|length|\d+)$/;
  const watched = (it, path) => {
    if (it === null || typeof it !== "object") return it;
    if (!seen.has(it))
      seen.set(it, new Proxy(it, { get: (target, name) => read(target, name, path) }));
    return seen.get(it);
  };
  const read = (target, name, path) => {
    if (typeof name === "symbol" || silent.test(name))
      return watched(Reflect.get(target, name), path);
    if (!(name in target)) missed.set(`${path.join(".")}/${name}`, { name, path });
    const value = Reflect.get(target, name);
    return Object.hasOwn(target, name) ? watched(value, [...path, name]) : value;
  };
  const json = Response.prototype.json;
  Response.prototype.json = async function () {
    const page = new URL(".", document.baseURI).pathname;
    return watched(await json.call(this), [new URL(this.url).pathname.slice(page.length - 1)]);
  };
  globalThis.missedFields = () => [...missed.values()];
}

/** The missed reads whose names are not in the document either. */
export function wrong(missed, document) {
  return missed
    .filter(({ name, path: [asked, ...inside] }) => {
      const at = inside.reduce(
        (shapes, part) => (shapes ? below(shapes, part, document) : null),
        answers(asked, document),
      );
      return at !== null && below(at, name, document)?.length === 0;
    })
    .map(({ name, path }) => `${path.join(".")} has no ${name}`);
}

/** The shapes of all responses of an address. */
function answers(asked, document) {
  const matches = (path) => new RegExp(`^${path.replace(/\{[^}]+\}/g, "[^/]+")}$`).test(asked);
  const found = Object.entries(document.paths).filter(([path]) => matches(path));
  // A literal path takes precedence over one with a parameter.
  const [, methods] =
    found.sort(([one], [other]) => one.split("{").length - other.split("{").length)[0] ?? [];
  if (!methods) throw new Error(`the document has no ${asked}`);
  const contents = Object.values(methods)
    .flatMap(({ responses }) => Object.values(responses ?? {}))
    .map((response) => resolved(response, document))
    .flatMap(({ content }) => Object.values(content ?? {}));
  return contents.flatMap(({ schema }) => shapesOf(schema, document));
}

/** Follows the reference `#/components/…`, if there is one. */
const resolved = (one, document) =>
  one.$ref
    ? one.$ref
        .slice(2)
        .split("/")
        .reduce((at, name) => at[name], document)
    : one;

/** The object shapes of a schema, with references, alternatives and arrays resolved. */
function shapesOf(schema, document) {
  if (schema === undefined) return [];
  if (schema.$ref) return shapesOf(resolved(schema, document), document);
  const several = [schema.anyOf, schema.oneOf, schema.allOf].flatMap((list) => list ?? []);
  if (several.length > 0) return several.flatMap((one) => shapesOf(one, document));
  return schema.items ? shapesOf(schema.items, document) : [schema];
}

/** The shapes of a field: empty if there is no such field, null if the schema allows any. */
function below(shapes, name, document) {
  const open = (shape) =>
    !shape.properties &&
    !shape.additionalProperties &&
    (!shape.type || [shape.type].flat().includes("object"));
  if (shapes.some(open)) return null;
  return shapes.flatMap(({ properties, additionalProperties }) => {
    const field =
      properties && Object.hasOwn(properties, name) ? properties[name] : additionalProperties;
    return field ? shapesOf(field, document) : [];
  });
}
