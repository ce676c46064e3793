// Shows the description of the API and tries its operations. The key stays in its field: nothing is stored.
"use strict";

/** The longest answer that is shown, in characters. */
const SHOWN = 200000;
let description = {};

/** An element with properties, and children that are elements or texts. */
function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== undefined && child !== ""));
  return made;
}

function resolved(value) {
  if (!value || !value.$ref) return value;
  return value.$ref.slice(2).split("/").reduce((found, part) => found[part], description);
}

/** What a schema says, in one line. */
function kind(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.allOf) return schema.allOf.map(kind).join(" and ");
  if (schema.type === "array") return `list of ${kind(schema.items)}`;
  const bounds = [
    schema.format,
    schema.enum && schema.enum.join(" | "),
    schema.minimum !== undefined && `from ${schema.minimum}`,
    schema.maximum !== undefined && `to ${schema.maximum}`,
    schema.maxLength && `at most ${schema.maxLength} characters`,
    schema.default !== undefined && `by default ${schema.default}`,
  ];
  return [schema.type, ...bounds.filter(Boolean)].filter(Boolean).join(", ");
}

/** All fields of a schema, those of its parts included. */
function fields(schema) {
  const whole = resolved(schema) || {};
  const parts = (whole.allOf || []).map(fields);
  const own = Object.entries(whole.properties || {});
  const required = new Set(whole.required || []);
  return parts.flat().concat(own.map(([name, value]) => ({ name, value, required: required.has(name) })));
}

/** A value that fits a schema, as a start for a body. */
function sample(schema, depth = 0) {
  const whole = resolved(schema) || {};
  if (whole.default !== undefined) return whole.default;
  if (whole.examples) return whole.examples[0];
  if (whole.enum) return whole.enum[0];
  if (whole.type === "array") return depth < 3 ? [sample(whole.items, depth + 1)] : [];
  if (whole.type === "integer" || whole.type === "number") return whole.minimum || 0;
  if (whole.type === "boolean") return false;
  if (whole.type === "string") return whole.format === "uuid" ? "00000000-0000-0000-0000-000000000000" : "";
  const needed = fields(whole).filter((field) => field.required);
  return Object.fromEntries(needed.map((field) => [field.name, sample(field.value, depth + 1)]));
}

function schemaTable(schema) {
  const list = resolved(schema);
  const rows = fields(list && list.type === "array" ? list.items : list).map((field) => {
    const about = (resolved(field.value) || {}).description;
    const name = element("td", {}, element("code", { textContent: field.name }), field.required ? "" : " (optional)");
    return element("tr", {}, name, element("td", { textContent: kind(field.value) }),
      element("td", { textContent: field.value.description || about || "" }));
  });
  return rows.length ? element("table", {}, element("tbody", {}, ...rows)) : "";
}

function parameterRow(parameter, prefix) {
  const id = `${prefix}-${parameter.name}`;
  const schema = resolved(parameter.schema) || {};
  const field = schema.enum || schema.type === "boolean"
    ? element("select", { id }, ...["", ...(schema.enum || [true, false])].map((value) => element("option", { textContent: value })))
    : element("input", { id, required: parameter.required, placeholder: schema.type === "array" ? "one, or several with commas" : "" });
  field.dataset.name = parameter.name;
  field.dataset.place = parameter.in;
  field.dataset.list = schema.type === "array";
  const label = element("label", { htmlFor: id }, element("code", { textContent: parameter.name }), parameter.required ? "" : " (optional)");
  return element("tr", {}, element("td", {}, label), element("td", {}, field),
    element("td", { textContent: `${parameter.description || ""} ${kind(parameter.schema)}` }));
}

/** The request that a form describes. */
function request(form, method, path) {
  const query = new URLSearchParams();
  const headers = new Headers();
  for (const field of form.querySelectorAll("[data-place]")) {
    const { name, place, list } = field.dataset;
    if (place === "path") path = path.replace(`{${name}}`, encodeURIComponent(field.value));
    if (field.value === "" || place === "path") continue;
    if (place === "header") headers.set(name, field.value);
    const values = list === "true" ? field.value.split(",").map((value) => value.trim()) : [field.value];
    if (place === "query") values.forEach((value) => query.append(name, value));
  }
  const key = document.getElementById("key").value.trim();
  if (key) headers.set("Authorization", `${key.startsWith("ik") ? "ApiKey" : "Bearer"} ${key}`);
  const body = form.querySelector("textarea");
  const type = form.querySelector("select.form");
  if (body) headers.set("Content-Type", type ? type.value : "application/json");
  const url = path.slice(1) + (query.size ? `?${query}` : "");
  return [url, { method, headers, body: body ? body.value : undefined, credentials: "omit", cache: "no-store" }];
}

function readable(text, type) {
  if (!type.startsWith("application/json")) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Sends what the form says and shows what comes, as it comes. */
async function attempt(form, method, path, output, stop) {
  output.replaceChildren(element("p", { textContent: "Waiting for the answer." }));
  try {
    const [url, options] = request(form, method, path);
    const began = performance.now();
    const answer = await fetch(url, { ...options, signal: stop });
    const type = answer.headers.get("Content-Type") || "";
    const took = Math.round(performance.now() - began);
    const body = element("pre", { tabIndex: 0 });
    output.replaceChildren(
      element("p", {}, element("strong", { textContent: `${answer.status} ${answer.statusText}` }), ` after ${took} ms: ${method} /${url}`),
      element("pre", { textContent: [...answer.headers].map(([name, value]) => `${name}: ${value}`).join("\n") }),
      body);
    if (!answer.body) return;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (let part = await reader.read(); !part.done && text.length < SHOWN; part = await reader.read()) {
      text += part.value;
      body.textContent = readable(text, type);
    }
    if (text.length >= SHOWN) await reader.cancel();
  } catch (error) {
    output.append(element("p", { className: "failed", textContent: stop.aborted ? "Stopped." : `No answer: ${error.message}` }));
  }
}

function tryForm(method, path, operation, parameters) {
  const form = element("form", {});
  if (parameters.length) {
    const rows = parameters.map((parameter) => parameterRow(parameter, operation.operationId));
    form.append(element("h3", { textContent: "Parameters" }), element("table", {}, element("tbody", {}, ...rows)));
  }
  if (operation.requestBody) {
    const content = operation.requestBody.content;
    const forms = Object.keys(content).filter((name) => !name.includes("msgpack"));
    const schema = content[forms[0]].schema;
    const id = `${operation.operationId}-body`;
    const start = forms[0].endsWith("json") && schema ? JSON.stringify(sample(schema), null, 2) : "";
    form.append(element("h3", {}, element("label", { htmlFor: id, textContent: `Body: ${kind(schema)}` })), schemaTable(schema));
    if (forms.length > 1) {
      const options = forms.map((name) => element("option", { textContent: name }));
      form.append(element("select", { className: "form", ariaLabel: "Form of the body" }, ...options));
    }
    form.append(element("textarea", { id, spellcheck: false, value: start }));
  }
  const output = element("div", { role: "status" });
  const cancel = element("button", { type: "button", textContent: "Stop", disabled: true });
  form.append(element("button", { textContent: "Try it" }), cancel, output);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    cancel.click();
    const stop = new AbortController();
    cancel.onclick = () => stop.abort();
    cancel.disabled = false;
    await attempt(form, method, path, output, stop.signal);
    cancel.disabled = true;
  });
  return form;
}

function answers(operation) {
  const rows = Object.entries(operation.responses).map(([status, answer]) => {
    const whole = resolved(answer);
    const content = whole.content ? Object.values(whole.content)[0].schema : undefined;
    const about = element("td", { textContent: `${whole.description} ${kind(content)}` });
    if (status.startsWith("2")) about.append(schemaTable(content));
    return element("tr", {}, element("td", {}, element("code", { textContent: status })), about);
  });
  return element("table", {}, element("tbody", {}, ...rows));
}

function operationDetails(method, path, operation) {
  const parameters = (operation.parameters || []).map(resolved);
  const summary = element("summary", {},
    element("code", { className: "method", textContent: method }),
    element("code", { className: "path", textContent: path }), operation.summary,
    operation["x-lastroute-extension"] ? element("span", { className: "extension", textContent: " (extension)" }) : "");
  const details = element("details", { className: "operation", id: operation.operationId }, summary);
  // Made when it is opened: there are many.
  details.addEventListener("toggle", () => details.append(element("div", {},
    element("p", { textContent: operation.description || "" }),
    tryForm(method, path, operation, parameters), element("h3", { textContent: "Answers" }), answers(operation))), { once: true });
  return details;
}

function show() {
  document.getElementById("version").textContent = description.info.version;
  document.getElementById("about").textContent = description.info.description;
  const main = document.getElementById("operations");
  for (const tag of description.tags) {
    document.getElementById("tags").append(element("a", { href: `#tag-${tag.name}`, textContent: tag.name }));
    main.append(element("h2", { id: `tag-${tag.name}`, textContent: tag.name }), element("p", { textContent: tag.description }));
    for (const [path, item] of Object.entries(description.paths)) {
      const own = Object.entries(item).filter(([, operation]) => operation.tags.includes(tag.name));
      main.append(...own.map(([method, operation]) => operationDetails(method.toUpperCase(), path, operation)));
    }
  }
}

async function load() {
  document.getElementById("access").addEventListener("submit", (event) => event.preventDefault());
  try {
    description = await (await fetch("openapi.json")).json();
    show();
    document.getElementById("loading").remove();
  } catch (error) {
    document.getElementById("loading").append(element("span", { className: "failed", textContent: ` It cannot be read: ${error.message}` }));
  }
  document.getElementById("operations").ariaBusy = "false";
}

load();
