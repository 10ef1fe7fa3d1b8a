"use strict";
// The service's page: a list of files, each computed in turn, and the one that is looked at.
{
  const at = (id) => document.getElementById(id);
  const viewer = new Viewer(at("viewer"));
  const TRIES = 5; // requests of one file while the service is busy
  const files = []; // each {file, name, state, text, answer, image, urls}; state: waiting, working, done or failed
  let selected = null;
  let working = false;
  let request = null; // what ends the request in progress
  let model = null; // what the banner says of the model
  let asked = 0; // how often the model was asked for
  let again = null; // the timer that asks for it again

  function bytes(base64) {
    return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  }

  /** What went wrong, in words: of the service, of a proxy before it, or of the way to them. */
  async function problem(response) {
    const text = await response.text().catch(() => "");
    try {
      const { detail } = JSON.parse(text);
      if (typeof detail === "string") return detail.replace(/^the file: /, "");
    } catch { /* no JSON: it is not the service that answers */ }
    const words = {
      401: "a proxy asks for a login", 403: "a proxy does not let this request through",
      413: "the file is larger than a proxy before the service takes", 429: "a proxy says that there were too many requests; try again later",
      502: "the service cannot be reached by the proxy before it; it may be starting again", 503: "the service is away for the moment; try again",
      504: "the service did not answer the proxy before it in time; try again, or with a smaller file",
    };
    return `${words[response.status] ?? "there was no answer of the service but of something before it"} (HTTP ${response.status})`;
  }

  /** Send one file and take its answer; asks again while the service is busy. */
  async function ask(entry, signal) {
    for (let tries = 1; ; tries++) {
      let response;
      try {
        response = await fetch("/predict?format=json&include=mask,image,shapes,seg", {
          method: "POST", body: entry.file, headers: { "Content-Type": "application/octet-stream" }, signal,
        });
      } catch (error) {
        if (signal.aborted) throw error;
        throw new Error(`the service gave no answer (${error.message}); it may be away or starting again`);
      }
      if (response.status === 503 && tries < TRIES && response.headers.has("Retry-After")) {
        tell(entry, "working", "busy, waits");
        await new Promise((done) => setTimeout(done, 1000 * (Number(response.headers.get("Retry-After")) || 1)));
        if (signal.aborted) throw new Error("removed");
        continue;
      }
      if (!response.ok) throw new Error(await problem(response));
      const answer = await response.json().catch(() => null);
      if (!answer?.shapes) throw new Error("there was no answer of the service but of something before it (HTTP 200)");
      return answer;
    }
  }

  async function compute(entry) {
    const mine = (request = new AbortController());
    tell(entry, "working", "finding the lungs");
    try {
      const answer = await ask(entry, mine.signal);
      const stem = entry.name.replace(/\.[^.]*$/, "") || "xray";
      const { mask, image, seg, shapes, overlay: _, ...rest } = answer;
      const blobs = { image: new Blob([bytes(image)], { type: "image/png" }), mask: new Blob([bytes(mask)], { type: "image/png" }) };
      if (seg) blobs.seg = new Blob([bytes(seg)], { type: "application/dicom" });
      const findings = { file: entry.name, time: new Date().toISOString(), ...rest };
      blobs.json = new Blob([JSON.stringify(findings, null, 2)], { type: "application/json" });
      const urls = Object.fromEntries(Object.entries(blobs).map(([kind, blob]) => [kind, URL.createObjectURL(blob)]));
      const picture = element("img", "", { src: urls.image });
      await picture.decode();
      if (mine.signal.aborted) {
        Object.values(urls).forEach((url) => URL.revokeObjectURL(url));
        return;
      }
      Object.assign(entry, { findings, shapes, picture, urls, stem });
      const count = rest.findings.flags.length;
      tell(entry, "done", count ? `${count} flag${count > 1 ? "s" : ""}` : "no flag");
      const { name, version, canary } = rest.model;
      if (!canary && (name !== model?.name || version !== model.version)) askModel(); // the service has changed its model
    } catch (error) {
      if (!mine.signal.aborted) tell(entry, "failed", error.message);
    }
  }

  async function work() {
    if (working) return;
    working = true;
    for (let next; (next = files.find((entry) => entry.state === "waiting")); ) await compute(next);
    working = false;
  }

  /** Note a file's state, in the list, and in the view if it is the one that is looked at. */
  function tell(entry, state, text) {
    Object.assign(entry, { state, text });
    const shown = entry.line.lastChild;
    const flagged = state === "done" && entry.findings.findings.flags.length;
    shown.className = `state ${state === "failed" ? "failed" : flagged ? "flagged" : ""}`;
    shown.replaceChildren(...(state === "working" ? [element("span", "", { className: "busy" }), " working"] : [state === "failed" ? "failed" : text]));
    count();
    if (entry === selected) show(entry);
  }

  function count() {
    const done = files.filter((entry) => ["done", "failed"].includes(entry.state)).length;
    at("files").hidden = files.length === 0;
    at("done").textContent = `${done} of ${files.length} done`;
    Object.assign(at("progress"), { max: Math.max(1, files.length), value: done });
    at("all").disabled = !files.some((entry) => entry.state === "done");
  }

  /** Show one file: its findings, or that there are none yet, or why there are none. Nothing of another file stays. */
  function show(entry) {
    selected = entry;
    const done = entry.state === "done";
    at("place").classList.add("loaded");
    for (const one of files) one.line.setAttribute("aria-current", one === entry);
    at("name").textContent = entry.name;
    for (const id of ["flagged", "viewer"]) at(id).hidden = false;
    at("result").hidden = !done;
    for (const id of ["mask", "seg", "json"]) at(id).removeAttribute("href");
    at("flags").replaceChildren();
    at("areas").replaceChildren();
    at("facts").replaceChildren();
    at("alert").textContent = "";
    if (!done) {
      const failed = entry.state === "failed";
      const text = failed ? `${entry.name}: ${entry.text}` : `${entry.name}: ${entry.text} …`;
      if (failed) at("flags").append(element("p", text, { className: "error", id: "error" }));
      at("status").textContent = failed ? "" : `${entry.text} …`;
      at(failed ? "alert" : "live").textContent = text;
      viewer.clear(failed ? "There is no result." : text, !failed);
      return;
    }
    const { findings: told, shapes, urls } = entry;
    const { findings, model: used, picture, note } = told;
    const flags = findings.flags.length;
    const sentence = `the lungs cover ${percent(findings.lungs.share)} of the image; ${flags ? `${flags} flag${flags > 1 ? "s" : ""} raised.` : "no flag."}`;
    at("status").textContent = sentence;
    at("live").textContent = `${entry.name}: ${sentence}`;
    at("flags").replaceChildren(...flagBoxes(findings.flags));
    at("areas").replaceChildren(areaTable(findings));
    at("facts").replaceChildren(...facts([
      ...figures(findings, picture.kind), ["Note", note], ["Time", new Date(told.time).toLocaleString("sv")],
      ["Model", `${used.name}, version ${used.version} (${used.engine})${used.canary ? ", as a canary" : ""}`],
    ]));
    for (const [kind, ending] of [["mask", "-mask.png"], ["seg", "-seg.dcm"], ["json", "-findings.json"]]) {
      at(kind).hidden = !urls[kind];
      if (urls[kind]) Object.assign(at(kind), { href: urls[kind], download: entry.stem + ending });
    }
    const mm = findings.spacing ? findings.width * findings.spacing[1] : null;
    viewer.show({ image: entry.picture, shapes, mm, label: pictureLabel(entry.name, findings) });
  }

  function add(chosen) {
    const added = [...chosen].map((file) => {
      const line = element("button", "", { type: "button", className: "file" });
      line.append(element("span", file.name), element("span", "", { className: "state" }));
      const entry = { file, name: file.name, state: "", line };
      line.addEventListener("click", () => show(entry));
      const item = document.createElement("li");
      item.append(line);
      at("list").append(item);
      files.push(entry);
      return entry;
    });
    if (!added.length) return;
    for (const entry of added) tell(entry, "waiting", "waiting");
    show(added[0]);
    at("choose").textContent = "Choose more";
    work();
  }

  function removeAll() {
    request?.abort();
    for (const entry of files) Object.values(entry.urls ?? {}).forEach((url) => URL.revokeObjectURL(url));
    files.length = 0;
    selected = null;
    at("list").replaceChildren();
    for (const id of ["flagged", "viewer", "result"]) at(id).hidden = true;
    for (const id of ["live", "alert"]) at(id).textContent = "";
    at("place").classList.remove("loaded");
    at("choose").textContent = "Choose chest X-rays";
    count();
    at("file").focus();
  }

  function step(by) {
    const place = files.indexOf(selected) + by;
    if (place >= 0 && place < files.length) show(files[place]);
  }

  /** Ask what the model is, until there is an answer. What the banner says stays until then. */
  async function askModel() {
    clearTimeout(again);
    const number = ++asked;
    const response = await fetch("/model").catch(() => null);
    const told = response?.ok ? await response.json().catch(() => null) : null;
    if (number !== asked) return; // a later question is answered later
    if (!told) again = setTimeout(askModel, 3000);
    const same = JSON.stringify(told) === JSON.stringify(model);
    if (!model || (told && !same)) tellModel(at("model"), told, "/card"); // else a screen reader would read it again
    model = told ?? model;
  }

  at("file").addEventListener("change", (event) => {
    add(event.target.files);
    event.target.value = ""; // so that the same file can be chosen again
  });
  at("example").addEventListener("click", async () => {
    const response = await fetch("/static/example.png").catch(() => null);
    if (response?.ok) add([new File([await response.blob()], "drawn-example.png")]);
    else at("alert").textContent = "The example cannot be fetched; the service may be away.";
  });
  at("all").addEventListener("click", () => {
    const told = files.filter((entry) => entry.state === "done").map((entry) => entry.findings);
    const url = URL.createObjectURL(new Blob([JSON.stringify(told, null, 2)], { type: "application/json" }));
    element("a", "", { href: url, download: "findings.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  });
  at("clear").addEventListener("click", removeAll);
  at("print").addEventListener("click", () => print());
  addEventListener("keydown", (event) => {
    const free = document.activeElement === document.body || ["viewer", "list"].some((id) => at(id).contains(document.activeElement));
    if (!free || event.target.matches("input")) return;
    if (viewer.key(event)) event.preventDefault();
    else if (!event.shiftKey && event.key === "ArrowLeft") step(-1);
    else if (!event.shiftKey && event.key === "ArrowRight") step(1);
  });
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") askModel();
  });
  let depth = 0;
  addEventListener("dragenter", () => document.body.classList.toggle("over", ++depth > 0));
  addEventListener("dragleave", () => document.body.classList.toggle("over", --depth > 0));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    document.body.classList.remove("over");
    add(event.dataTransfer.files);
  });
  askModel();
}
