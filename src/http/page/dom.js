// Creates elements, and updates the page to match them.
//
// A view builds its elements anew on each draw. `patch` changes only what differs, so that focus,
// scroll positions, selections and opened details survive a poll. Text becomes text nodes only: no
// text of a database, a job or an audit event is ever parsed as markup.

const SVG = "http://www.w3.org/2000/svg";

/** Creates an element. `on…` are handlers, `css` is its style, `key` tells siblings apart. */
export function h(tag, props, ...children) {
  return build(document.createElement(tag), props, children);
}

/** Creates an SVG element. */
export function s(tag, props, ...children) {
  return build(document.createElementNS(SVG, tag), props, children);
}

function build(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value == null || value === false) continue;
    if (name.startsWith("on")) (element.handlers ??= {})[name] = element[name] = value;
    else if (name === "key") element.key = String(value);
    else if (name === "css")
      for (const [property, to] of Object.entries(value)) element.style.setProperty(property, to);
    else if (name === "value" || name === "checked")
      element.pending = { ...element.pending, [name]: value };
    else element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  // The value of a select can be set only once its options exist.
  Object.assign(element, element.pending);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child == null || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/** A container for an element with its own state (a chart, a form): `patch` leaves it alone. */
export function slot(key, content) {
  const container = h("div", { key, class: "slot" });
  container.content = content;
  return container;
}

/** Makes the children of `parent` equal to `nodes`. */
export function patch(parent, nodes) {
  const expected = [nodes]
    .flat(Infinity)
    .filter((node) => node != null && node !== false)
    .map((node) => (node instanceof Node ? node : document.createTextNode(String(node))));
  const keys = new Set(expected.map((node) => node.key));
  const keyed = new Map();
  for (const child of [...parent.childNodes]) {
    if (child.key == null) continue;
    // Removed rows go first. Otherwise every row behind them would move and lose the focus.
    if (keys.has(child.key)) keyed.set(child.key, child);
    else child.remove();
  }
  let at = parent.firstChild;
  for (const node of expected) {
    const candidate = node.key != null ? keyed.get(node.key) : at;
    const match =
      candidate && candidate.key === node.key && candidate.nodeName === node.nodeName
        ? candidate
        : null;
    if (!match) {
      parent.insertBefore(node, at);
      fill(node);
      continue;
    }
    if (match === at) at = at.nextSibling;
    else parent.insertBefore(match, at);
    align(match, node);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function fill(node) {
  if (!(node instanceof Element)) return;
  for (const container of [node, ...node.querySelectorAll(".slot")])
    if (container.content) container.append(container.content);
}

function align(old, node) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.nodeValue !== node.nodeValue) old.nodeValue = node.nodeValue;
    return;
  }
  if (node.content) {
    if (old.firstChild !== node.content) old.replaceChildren(node.content);
    return;
  }
  attributes(old, node);
  for (const name of Object.keys({ ...old.handlers, ...node.handlers }))
    old[name] = node.handlers?.[name] ?? null;
  old.handlers = node.handlers;
  patch(old, [...node.childNodes]);
  if (node.pending && old !== document.activeElement) Object.assign(old, node.pending);
}

function attributes(old, node) {
  for (const { name } of [...old.attributes]) {
    // A person opened it: it stays open.
    if (name !== "open" && name !== "style" && !node.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of node.attributes) {
    if (name !== "style" && name !== "open" && old.getAttribute(name) !== value)
      old.setAttribute(name, value);
  }
  // Through CSSOM: the content security policy forbids the attribute `style`.
  if (old.style.cssText !== node.style.cssText) old.style.cssText = node.style.cssText;
}
