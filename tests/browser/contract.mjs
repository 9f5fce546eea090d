// What the page reads of the API's answers must be what the API's document says it sends.
//
// A field that an answer lacks reads as `undefined`, and the page would show that there is none: a wrong name
// looks like good news. So answers are watched, and each name that was read in vain is looked up.

/** Runs in the page, before its scripts: answers note what is read of them that they do not have. */
export function watch() {
  const missed = new Map();
  const seen = new WeakMap();
  const silent = /^(then|toJSON|length|\d+)$/;
  const watched = (it, path) => {
    if (it === null || typeof it !== "object") return it;
    if (!seen.has(it)) seen.set(it, new Proxy(it, { get: (target, name) => read(target, name, path) }));
    return seen.get(it);
  };
  const read = (target, name, path) => {
    if (typeof name === "symbol" || silent.test(name)) return watched(Reflect.get(target, name), path);
    if (!(name in target)) missed.set(`${path.join(".")}/${name}`, { name, path });
    const value = Reflect.get(target, name);
    return Object.hasOwn(target, name) ? watched(value, [...path, name]) : value;
  };
  const json = Response.prototype.json;
  Response.prototype.json = async function () {
    return watched(await json.call(this), [new URL(this.url).pathname]);
  };
  globalThis.missedFields = () => [...missed.values()];
}

/** The names that the document has anywhere, and those whose content it leaves open. */
function names(document) {
  const [known, free] = [new Set(), new Set()];
  const walk = (schema) => {
    if (schema === null || typeof schema !== "object") return;
    for (const [name, of] of Object.entries(schema.properties ?? {})) {
      known.add(name);
      const shape = ["$ref", "properties", "additionalProperties", "items", "anyOf", "oneOf"];
      const open = of.type === undefined || [of.type].flat().includes("object");
      if (open && !shape.some((key) => key in of)) free.add(name);
    }
    for (const part of Object.values(schema)) walk(part);
  };
  walk(document.components.schemas);
  return { known, free };
}

/** What was read in vain and is no field of any answer. */
export function wrong(missed, document) {
  const { known, free } = names(document);
  return missed.filter(({ name, path }) => !known.has(name) && !path.some((part) => free.has(part)))
    .map(({ name, path }) => `${path.join(".")} has no ${name}`);
}
