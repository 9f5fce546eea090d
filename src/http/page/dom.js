// Elements, and bringing what stands on the page in line with what should stand there.
//
// A view describes itself anew each time; `patch` changes only what differs, so that focus, scroll
// positions, selections and opened details survive a poll. Text goes in as text nodes only: nothing
// that a database, a job or an audit row says is ever read as markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element. `on…` are handlers, `css` custom properties, `key` tells siblings apart. */
export function h(tag, props, ...children) {
  return build(document.createElement(tag), props, children);
}

/** The same for SVG. */
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
  // A select's value can be set only once its options are there.
  Object.assign(element, element.pending);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child == null || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/** A place for an element with a life of its own (a chart, a form): filled once, then left alone. */
export function slot(key, content) {
  const place = h("div", { key, class: "slot" });
  place.content = content;
  return place;
}

/** Makes `parent`'s children equal to `nodes`. */
export function patch(parent, nodes) {
  const wanted = [nodes]
    .flat(Infinity)
    .filter((node) => node != null && node !== false)
    .map((node) => (node instanceof Node ? node : document.createTextNode(String(node))));
  const keys = new Set(wanted.map((node) => node.key));
  const keyed = new Map();
  for (const child of [...parent.childNodes]) {
    if (child.key == null) continue;
    // Gone rows go first: else every row behind them would have to move, and lose the focus.
    if (keys.has(child.key)) keyed.set(child.key, child);
    else child.remove();
  }
  let at = parent.firstChild;
  for (const node of wanted) {
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
  for (const place of [node, ...node.querySelectorAll(".slot")])
    if (place.content) place.append(place.content);
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
    // What a person opened stays open.
    if (name !== "open" && name !== "style" && !node.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of node.attributes) {
    if (name !== "style" && name !== "open" && old.getAttribute(name) !== value)
      old.setAttribute(name, value);
  }
  // Through CSSOM: the attribute itself is inline style to a content security policy.
  if (old.style.cssText !== node.style.cssText) old.style.cssText = node.style.cssText;
}
