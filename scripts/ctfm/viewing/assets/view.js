// The page of `ctfm view`: NiiVue draws, the server of the same address answers.
"use strict";

const element = (id) => document.getElementById(id);
const spell = (mm) => Array.from(mm.slice(0, 3), (v) => v.toFixed(1)).join(", ");

const nv = new niivue.Niivue({
  backColor: [0, 0, 0, 1],
  crosshairColor: [0.3, 0.82, 0.88, 1],
  crosshairWidth: 1,
  crosshairWidthUnit: "mm",
  isRadiologicalConvention: true,
  isOrientCube: false,
  loadingText: "",
  dragAndDropEnabled: false,
});
let scene;
let shown = 0; // number of the volume on the page
let place = null; // mm of the crosshair, RAS+
let asked = 0; // searches so far: late answers of earlier ones are left out

function say(text) {
  element("status").textContent = text;
}

function hu(data) {
  const value = data.values[0]?.value;
  if (value === undefined) return "";
  return `${Math.round(value)} HU`;
}

function structure(data) {
  const overlay = shown === 0 ? scene.overlay : null;
  const value = data.values[1]?.value;
  if (!overlay || value === undefined) return "";
  if (overlay.kind === "heat") return value.toFixed(4);
  return overlay.classes[Math.round(value)]?.name ?? "";
}

nv.onLocationChange = (data) => {
  place = Array.from(data.mm).slice(0, 3);
  const voxel = Array.from(data.vox).map((v) => Math.round(v)).join(", ");
  const parts = [`${spell(place)} mm`, `voxel ${voxel}`, hu(data), structure(data)];
  element("place").textContent = parts.filter(Boolean).join("   ·   ");
};

function go(mm) {
  nv.scene.crosshairPos = nv.mm2frac(mm);
  nv.createOnLocationChange();
  nv.drawScene();
}

function setWindow() {
  const [low, high] = element("window").value.split(" ").map(Number);
  nv.volumes[0].cal_min = low;
  nv.volumes[0].cal_max = high;
  nv.updateGLVolume();
}

function quantile(values, share) {
  const step = Math.max(1, Math.floor(values.length / 50000));
  const some = [];
  for (let i = 0; i < values.length; i += step) if (values[i] !== 0) some.push(values[i]);
  some.sort((a, b) => a - b);
  return some[Math.min(some.length - 1, Math.floor(share * some.length))] ?? 0;
}

function setFloor() {
  const map = nv.volumes[1];
  map.cal_min = quantile(map.img, Number(element("floor").value));
  map.cal_max = quantile(map.img, 1);
  nv.updateGLVolume();
}

function dressOverlay() {
  const { kind, classes } = scene.overlay;
  if (kind === "heat") {
    setFloor();
    return;
  }
  const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: ["background"] };
  for (const [id, one] of Object.entries(classes)) {
    table.R.push(one.color[0]);
    table.G.push(one.color[1]);
    table.B.push(one.color[2]);
    table.A.push(255);
    table.I.push(Number(id));
    table.labels.push(one.name);
  }
  nv.volumes[1].setColormapLabel(table);
  nv.updateGLVolume();
}

async function show(number, url, name, mm) {
  const list = [{ url, name: url.split("/").pop(), colormap: "gray" }];
  const overlay = number === 0 ? scene.overlay : null;
  if (overlay) {
    const colormap = overlay.kind === "heat" ? "inferno" : "gray";
    const opacity = Number(element("opacity").value);
    list.push({ url: overlay.url, name: overlay.url.split("/").pop(), colormap, opacity });
  }
  element("place").textContent = `Loading ${name} …`;
  try {
    await nv.loadVolumes(list);
  } catch (error) {
    element("place").textContent = `${name}: cannot be shown (${error.message})`;
    return;
  }
  shown = number;
  element("name").textContent = name;
  document.title = `${name} · ctfm view`;
  element("back").hidden = number === 0;
  element("opacity-row").hidden = !overlay;
  element("floor-row").hidden = overlay?.kind !== "heat";
  element("legend-box").hidden = overlay?.kind !== "labels";
  if (overlay) dressOverlay();
  setWindow();
  if (mm) go(mm);
  else nv.createOnLocationChange();
}

function listHits(hits) {
  const items = hits.map((hit) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(
      Object.assign(document.createElement("b"), { textContent: hit.scan }),
      Object.assign(document.createElement("span"), { textContent: hit.similarity.toFixed(4) }),
      Object.assign(document.createElement("small"), { textContent: `${spell(hit.point_mm)} mm` }),
    );
    if (hit.url === null) {
      button.disabled = true;
      button.title = "its file is not in --scans";
    }
    button.addEventListener("click", async () => {
      for (const other of element("hits").querySelectorAll("button")) {
        other.removeAttribute("aria-current");
      }
      button.setAttribute("aria-current", "true");
      await show(hit.volume, hit.url, hit.scan, hit.point_mm);
    });
    const item = document.createElement("li");
    item.append(button);
    return item;
  });
  element("hits").replaceChildren(...items);
}

async function search() {
  if (!scene.search || !place) return;
  const mine = ++asked;
  const from = place;
  say(`Looking for places like ${spell(from)} mm …`);
  try {
    const response = await fetch("nearest", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ volume: shown, point_mm: from }),
    });
    const answer = await response.json();
    if (mine !== asked) return;
    if (answer.error) {
      say(answer.error);
      listHits([]);
      return;
    }
    listHits(answer.hits);
    say(`${answer.hits.length} places like ${spell(from)} mm of ${element("name").textContent}`);
  } catch (error) {
    if (mine === asked) say(`No answer: ${error.message}. Is the command still running?`);
  }
}

const MOVES = {
  ArrowLeft: [1, 0, 0], // the patient's left is on the right
  ArrowRight: [-1, 0, 0],
  ArrowUp: [0, 1, 0],
  ArrowDown: [0, -1, 0],
  PageUp: [0, 0, 1],
  PageDown: [0, 0, -1],
};

function listen() {
  const canvas = element("canvas");
  let pressed = null;
  canvas.addEventListener("pointerdown", (event) => {
    pressed = event.button === 0 ? [event.clientX, event.clientY] : null;
  });
  canvas.addEventListener("pointerup", (event) => {
    const still = pressed && Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]) < 4;
    pressed = null;
    if (still) setTimeout(search); // after NiiVue has moved its crosshair
  });
  canvas.addEventListener(
    "keydown",
    (event) => {
      const move = MOVES[event.key];
      if (move) nv.moveCrosshairInVox(...move);
      else if (event.key === "Enter") search();
      else return;
      event.preventDefault();
      event.stopImmediatePropagation();
    },
    true,
  );
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && shown !== 0) element("back").click();
  });
  element("window").addEventListener("change", setWindow);
  element("floor").addEventListener("input", setFloor);
  element("opacity").addEventListener("input", () => {
    nv.setOpacity(1, Number(element("opacity").value));
  });
  element("back").addEventListener("click", () => show(0, scene.url, scene.name));
}

function listClasses() {
  const items = Object.values(scene.overlay?.classes ?? {}).map((one) => {
    const item = document.createElement("li");
    const swatch = document.createElement("i");
    swatch.style.background = `rgb(${one.color.join(" ")})`;
    item.append(swatch, one.name);
    return item;
  });
  element("legend").replaceChildren(...items);
}

async function main() {
  scene = await (await fetch("scene.json")).json();
  element("search").hidden = !scene.search;
  element("enter-does").textContent = scene.search ? "places like this one" : "nothing: no index";
  listClasses();
  await nv.attachToCanvas(element("canvas"));
  nv.setSliceType(nv.sliceTypeMultiplanar);
  listen();
  await show(0, scene.url, scene.name);
  document.body.dataset.ready = "true";
}

main().catch((error) => {
  element("place").textContent = `The page could not start: ${error.message}`;
});
