/* The slice viewer: 8-bit sprites from the page, windowed in canvases, driven by sliders, keys, wheel, drag and the URL fragment. */
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  if (!data.cases.length) return;
  const $ = (id) => document.getElementById(id);
  const state = { item: null, view: null, slice: 0, panels: [], request: 0 };
  const sprites = new Map();                      // data URI -> promise of { bytes, second, stride }

  const decode = (uri, second = false) => {
    if (!sprites.has(uri)) {
      sprites.set(uri, new Promise((done, failed) => {
        const image = new Image();
        image.onload = () => {
          const canvas = document.createElement("canvas");
          canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
          const context = canvas.getContext("2d", { willReadFrequently: true });
          context.drawImage(image, 0, 0);
          const rgba = context.getImageData(0, 0, canvas.width, canvas.height).data;
          const channel = (c) => { const bytes = new Uint8Array(rgba.length / 4); for (let i = 0; i < bytes.length; i++) bytes[i] = rgba[4 * i + c]; return bytes; };
          done({ bytes: channel(0), second: second ? channel(1) : null, stride: canvas.width });
        };
        image.onerror = () => failed(new Error("an embedded image cannot be decoded"));
        image.src = uri;
      }));
    }
    return sprites.get(uri);
  };
  const make = (parent, name, className, text) => {
    const node = document.createElement(name);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  };
  const show = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : Math.abs(value) >= 1 ? value.toFixed(1) : value.toFixed(3));
  const clip = (value, low, high) => Math.min(high, Math.max(low, value));

  /* error colours: blue below the reference, black where equal, red above, pale at the ends */
  const errorColour = (t) => {
    const a = Math.min(1, Math.abs(t));
    const first = Math.min(1, a * 2), second = Math.max(0, a * 2 - 1);
    const base = t < 0 ? [22, 99, 199] : [199, 55, 27];
    const end = t < 0 ? [140, 195, 255] : [255, 190, 150];
    const black = [11, 13, 16];
    return base.map((c, i) => black[i] + (c - black[i]) * first + (end[i] - c) * second);
  };
  const lookup = (image) => {
    const table = new Uint32Array(256);
    const window_ = Number($("v-window").value) / 100, level = Number($("v-level").value) / 100;
    const gain = Number($("v-gain").value) / 100;
    for (let v = 0; v < 256; v++) {
      const [r, g, b] = image.kind === "error"
        ? errorColour((v - 127) / 127 / gain)
        : Array(3).fill(clip((v / 255 - (level - window_ / 2)) / window_, 0, 1) * 255);
      table[v] = (255 << 24) | (b << 16) | (g << 8) | r;
    }
    return table;
  };
  const valueOf = (image, v) => (image.kind === "error" ? ((v - 127) / 127) * image.high : image.low + (v / 255) * (image.high - image.low));

  /* red, green, blue of a luma 0..255 and (Cb, Cr) in bytes about 128: full-range BT.601, cut to 0..255 */
  const recolour = (y, cb, cr) => {
    const r = y + 1.402 * (cr - 128), b = y + 1.772 * (cb - 128), g = (y - 0.299 * r - 0.114 * b) / 0.587;
    const [red, green, blue] = [r, g, b].map((v) => Math.round(clip(v, 0, 255)));
    return (255 << 24) | (blue << 16) | (green << 8) | red;
  };

  const draw = () => {
    const { item, slice } = state;
    for (const panel of state.panels) {
      if (!panel.sprite) continue;
      const { bytes, stride } = panel.sprite;
      const column = slice % item.columns, row = Math.floor(slice / item.columns);
      const origin = row * item.height * stride + column * item.width;
      const pixels = new Uint32Array(item.width * item.height), table = lookup(panel.image);
      for (let y = 0; y < item.height; y++) {
        for (let x = 0; x < item.width; x++) {
          const at = origin + y * stride + x, gray = table[bytes[at]];
          pixels[y * item.width + x] = panel.chroma ? recolour(gray & 255, panel.chroma.bytes[at], panel.chroma.second[at]) : gray;
        }
      }
      panel.context.putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), item.width, item.height), 0, 0);
    }
  };
  const drawStrip = () => {
    const strip = $("v-strip"), { item, view } = state, values = view.psnr || [];
    const finite = values.filter((v) => v !== null);
    strip.replaceChildren();
    strip.style.display = finite.length > 1 ? "" : "none";
    if (finite.length < 2) return;
    strip.setAttribute("viewBox", "0 0 1000 34");
    const low = Math.min(...finite) - 0.5, high = Math.max(...finite) + 0.5, last = Math.max(1, item.slices.length - 1);
    const add = (name, attributes) => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
      strip.append(node);
    };
    let path = "", pen = false;
    values.forEach((v, i) => {
      if (v === null) { pen = false; return; }
      path += `${pen ? "L" : "M"}${(i / last) * 1000} ${32 - ((v - low) / (high - low)) * 30}`;
      pen = true;
    });
    add("path", { d: path, fill: "none", stroke: "#6fb1ff", "stroke-width": 1.5, "vector-effect": "non-scaling-stroke" });
    const at = (state.slice / last) * 1000;
    add("line", { x1: at, x2: at, y1: 0, y2: 34, stroke: "#e8c66a", "stroke-width": 1.5, "vector-effect": "non-scaling-stroke" });
  };
  const texts = () => {
    const { item, view, slice } = state;
    const main = item.images[view.panels.find((p) => p.role === "prediction").image];
    const span = main.high - main.low, window_ = Number($("v-window").value) / 100, level = Number($("v-level").value) / 100;
    $("v-window-out").textContent = show(window_ * span);
    $("v-level-out").textContent = show(main.low + level * span);
    const error = view.panels.map((p) => item.images[p.image]).find((image) => image.kind === "error");
    const range = error ? error.high * Number($("v-gain").value) / 100 : 0;
    $("v-gain").disabled = !error;
    $("v-gain-out").textContent = error ? "\u00b1" + show(range) : "";
    $("v-low").textContent = error ? "\u2212" + show(range) : "";
    $("v-high").textContent = error ? "+" + show(range) : "";
    const psnr = view.psnr && view.psnr[slice];
    $("v-where").textContent = `${item.axis} ${item.slices[slice]}  (${slice + 1} of ${item.slices.length})` + (typeof psnr === "number" ? `  ${psnr.toFixed(1)} dB` : "");
  };
  const fragment = () => {
    const parts = new URLSearchParams({ case: state.item.name, direction: state.view.direction, target: state.view.target, slice: state.slice });
    try { history.replaceState(null, "", "#" + parts); } catch { /* some browsers refuse this for files: the viewer works without */ }
  };
  const goTo = (slice, write = true) => {
    state.slice = clip(slice, 0, state.item.slices.length - 1);
    $("v-slice").value = state.slice;
    $("v-slice").setAttribute("aria-valuetext", `${state.item.axis} ${state.item.slices[state.slice]}`);
    draw(); drawStrip(); texts();
    if (write) fragment();
  };
  const resetWindow = () => { $("v-window").value = 100; $("v-level").value = 50; $("v-gain").value = 60; draw(); texts(); };

  const readout = (event, panel) => {
    const box = panel.canvas.getBoundingClientRect(), { item } = state;
    const fx = clip((event.clientX - box.left) / box.width, 0, 0.9999), fy = clip((event.clientY - box.top) / box.height, 0, 0.9999);
    const x = Math.floor(fx * item.width), y = Math.floor(fy * item.height);
    const parts = [];
    for (const other of state.panels) {
      other.cross.style.display = "block";
      other.cross.style.left = `${fx * 100}%`; other.cross.style.top = `${fy * 100}%`;
      if (!other.sprite) continue;
      const column = state.slice % item.columns, row = Math.floor(state.slice / item.columns);
      const v = other.sprite.bytes[(row * item.height + y) * other.sprite.stride + column * item.width + x];
      parts.push(`${other.title}: ${show(valueOf(other.image, v))}`);
    }
    $("v-readout").textContent = `column ${x + item.left}, row ${y + item.top}   ` + parts.join("   ");
  };
  const interact = (panel) => {
    let drag = null;
    panel.stage.addEventListener("pointerdown", (event) => {
      drag = { x: event.clientX, y: event.clientY, window: Number($("v-window").value), level: Number($("v-level").value) };
      panel.stage.setPointerCapture(event.pointerId);
    });
    panel.stage.addEventListener("pointermove", (event) => {
      if (drag) {
        if (panel.image.kind !== "error") {
          $("v-window").value = drag.window + (event.clientX - drag.x) / 2;
          $("v-level").value = drag.level + (event.clientY - drag.y) / 3;
        } else {
          $("v-gain").value = Number($("v-gain").value) + event.movementX / 3;
        }
        draw(); texts();
      }
      readout(event, panel);
    });
    const stop = () => { drag = null; };
    panel.stage.addEventListener("pointerup", stop);
    panel.stage.addEventListener("pointercancel", stop);
    panel.stage.addEventListener("pointerleave", () => { for (const other of state.panels) other.cross.style.display = "none"; });
    panel.stage.addEventListener("dblclick", resetWindow);
    panel.stage.addEventListener("wheel", (event) => {
      if (event.ctrlKey || state.item.slices.length < 2) return;  // one slice: the page scrolls
      event.preventDefault();
      goTo(state.slice + Math.sign(event.deltaY));
    }, { passive: false });
  };

  const build = async (slice) => {
    const { item, view } = state, request = ++state.request;
    const home = $("v-panels");
    home.replaceChildren();
    $("v-slice").max = item.slices.length - 1;
    state.panels = view.panels.map((spec) => {
      const image = item.images[spec.image];
      const figure = make(home, "figure", "panel");
      const caption = make(figure, "figcaption");
      make(caption, "b", "", spec.title);
      make(caption, "span", "", spec.role);
      if (spec.simulated) make(caption, "span", "tag", "simulated contrast");
      const stage = make(figure, "div", "stage");
      const ratio = (item.width * item.spacing[0]) / (item.height * item.spacing[1]);
      stage.style.aspectRatio = ratio;
      stage.style.width = `min(100%, ${72 * ratio}vh)`;  // the slider below stays in sight of a tall slice
      const canvas = make(stage, "canvas");
      canvas.width = item.width; canvas.height = item.height;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${spec.title}, ${spec.role}, case ${item.name}`);
      item.markers.forEach((text, i) => make(stage, "span", "mark " + "lrtb"[i], text));
      const panel = { title: spec.title, image, stage, canvas, context: canvas.getContext("2d"), cross: make(stage, "span", "cross"), sprite: null, chroma: null };
      interact(panel);
      return panel;
    });
    await Promise.all(state.panels.map(async (panel) => {
      if (panel.image.chroma) panel.chroma = await decode(item.images[panel.image.chroma].src, true);
      panel.sprite = await decode(panel.image.src);
    }));
    if (request !== state.request) return;
    goTo(slice);
    document.documentElement.dataset.viewer = "ready";
  };
  const selectView = (index, slice = state.slice) => {
    state.view = state.item.views[clip(index, 0, state.item.views.length - 1)];
    $("v-view").value = state.item.views.indexOf(state.view);
    return build(slice);
  };
  const selectCase = (index, view, slice) => {
    state.item = data.cases[index];
    $("v-case").value = index;
    $("v-view").replaceChildren();
    state.item.views.forEach((entry, i) => { make($("v-view"), "option", "", entry.title).value = i; });
    return selectView(view, slice ?? Math.floor(state.item.slices.length / 2));
  };
  const fromFragment = () => {
    const wanted = new URLSearchParams(location.hash.slice(1));
    const index = Math.max(0, data.cases.findIndex((item) => item.name === wanted.get("case")));
    const views = data.cases[index].views;
    const matches = (view, keys) => keys.every((k) => !wanted.has(k) || view[k] === wanted.get(k));
    let view = views.findIndex((entry) => matches(entry, ["direction", "target"]));
    if (view < 0) view = Math.max(0, views.findIndex((entry) => matches(entry, ["direction"])));
    const slice = wanted.has("slice") ? parseInt(wanted.get("slice"), 10) : NaN;
    return selectCase(index, view, Number.isFinite(slice) ? slice : undefined);
  };

  data.cases.forEach((item, i) => { make($("v-case"), "option", "", item.name).value = i; });
  const redraw = () => { draw(); texts(); };
  for (const id of ["v-window", "v-level", "v-gain"]) $(id).addEventListener("input", redraw);
  const box = document.querySelector(".viewer");
  const smooth = () => box.classList.toggle("smooth", $("v-smooth").checked);
  $("v-smooth").addEventListener("change", smooth);
  $("v-reset").addEventListener("click", resetWindow);
  $("v-slice").addEventListener("input", () => goTo(Number($("v-slice").value)));
  $("v-prev").addEventListener("click", () => goTo(state.slice - 1));
  $("v-next").addEventListener("click", () => goTo(state.slice + 1));
  $("v-case").addEventListener("change", () => selectCase(Number($("v-case").value), state.item.views.indexOf(state.view)));
  $("v-view").addEventListener("change", () => selectView(Number($("v-view").value)));
  box.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select") || event.altKey || event.ctrlKey || event.metaKey) return;
    const nudges = { "[": ["v-window", -5], "]": ["v-window", 5], "-": ["v-level", -3], "=": ["v-level", 3], "+": ["v-level", 3] };
    if (event.key in nudges) {
      const [id, by] = nudges[event.key];
      $(id).value = Number($(id).value) + by;
      redraw();
      return;
    }
    if (event.key === "0") { resetWindow(); return; }
    const next = (list, item, by = 1) => (list.indexOf(item) + by + list.length) % list.length;
    if (event.key === "d") { selectView(next(state.item.views, state.view)); return; }
    if (event.key === "n" || event.key === "p") { selectCase(next(data.cases, state.item, event.key === "n" ? 1 : -1), state.item.views.indexOf(state.view)); return; }
    const moves = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5, Home: -1e9, End: 1e9 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    goTo(state.slice + moves[event.key]);
  });
  window.addEventListener("hashchange", () => {
    if (!location.hash.includes("=")) return;
    fromFragment();
    document.getElementById("viewer").scrollIntoView();  // a link of the table was followed
  });
  smooth();
  fromFragment();
})();
