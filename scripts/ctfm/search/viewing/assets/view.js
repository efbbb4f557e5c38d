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
let shown = null; // number of the volume on the page
let place = null; // mm of the crosshair, RAS+; null: there is none
let left = null; // where the crosshair stood in the scan, when it was left for another
let wanted = 0; // volumes asked for so far: those that another one overtook are left out
let loading = Promise.resolve();
let asked = 0; // searches so far: late answers of earlier ones are left out

function say(text) {
  element("status").textContent = text;
}

function hu(data) {
  const value = data.values[0]?.value;
  if (value === undefined) return "";
  return `${Math.round(value)} HU`;
}

// Index in the stored array, as `--voxel` of the commands has it: NiiVue counts along its own axes.
function voxelAt(mm) {
  const rows = nv.volumes[0].hdr.affine.slice(0, 3);
  const [a, b, c] = [0, 1, 2].map((axis) => rows.map((row) => row[axis]));
  const rest = rows.map((row, i) => mm[i] - row[3]);
  const cross = (u, v) => [0, 1, 2].map((i) => {
    const [j, k] = [(i + 1) % 3, (i + 2) % 3];
    return u[j] * v[k] - u[k] * v[j];
  });
  const dot = (u, v) => u[0] * v[0] + u[1] * v[1] + u[2] * v[2];
  const volume = dot(a, cross(b, c));
  const ijk = [dot(rest, cross(b, c)), dot(a, cross(rest, c)), dot(a, cross(b, rest))];
  return ijk.map((v) => Math.round(v / volume));
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
  const voxel = voxelAt(place).join(", ");
  const parts = [`${spell(place)} mm`, `voxel ${voxel}`, hu(data), structure(data)];
  element("place").textContent = parts.filter(Boolean).join("   ·   ");
};

function go(mm) {
  nv.scene.crosshairPos = nv.mm2frac(mm);
  nv.createOnLocationChange();
  nv.drawScene();
}

function setWindow() {
  if (nv.volumes.length === 0) return;
  const [low, high] = element("window").value.split(" ").map(Number);
  nv.volumes[0].cal_min = low;
  nv.volumes[0].cal_max = high;
  nv.updateGLVolume();
}

// Of a map's values as they are meant: whole numbers may be stored with a slope and an intercept.
function quantile(map, share) {
  const { scl_slope: slope, scl_inter: intercept } = map.hdr;
  const none = slope === 1 ? 0 : Math.abs(slope) / 2; // half a step, where 0 cannot be stored
  const step = Math.max(1, Math.floor(map.img.length / 50000));
  const some = [];
  for (let i = 0; i < map.img.length; i += step) {
    const value = map.img[i] * slope + intercept;
    if (Math.abs(value) > none) some.push(value);
  }
  some.sort((a, b) => a - b);
  return some[Math.min(some.length - 1, Math.floor(share * some.length))] ?? 0;
}

function setFloor() {
  const map = nv.volumes[1];
  if (!map) return;
  map.cal_min = quantile(map, Number(element("floor").value));
  map.cal_max = quantile(map, 1);
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

// One after another: NiiVue would mix the volumes of two that it loads at once.
function show(number, url, name, mm) {
  const mine = ++wanted;
  loading = loading.then(async () => {
    if (mine !== wanted) return;
    if (number !== shown) await load(number, url, name);
    if (mine === wanted && mm && place) go(mm);
  });
  return loading;
}

async function reasonOf(url, error) {
  try {
    const response = await fetch(url);
    if (!response.ok) return (await response.json()).error;
  } catch {
    return "no answer: is the command still running?";
  }
  return error.message;
}

async function load(number, url, name) {
  if (shown === 0) left = place;
  place = null;
  const list = [{ url, name: url.split("/").pop(), colormap: "gray" }];
  const overlay = number === 0 ? scene.overlay : null;
  if (overlay) {
    const colormap = overlay.kind === "heat" ? "inferno" : "gray";
    const opacity = Number(element("opacity").value);
    list.push({ url: overlay.url, name: overlay.url.split("/").pop(), colormap, opacity });
  }
  element("place").textContent = `Loading ${name} …`;
  shown = null;
  element("name").textContent = name;
  document.title = `${name} · ctfm view`;
  element("back").hidden = number === 0;
  try {
    await nv.loadVolumes(list);
  } catch (error) {
    element("place").textContent = `${name} cannot be shown: ${await reasonOf(url, error)}`;
    return;
  }
  shown = number;
  element("opacity-row").hidden = !overlay;
  element("floor-row").hidden = overlay?.kind !== "heat";
  element("legend-box").hidden = overlay?.kind !== "labels";
  if (overlay) dressOverlay();
  setWindow();
  nv.createOnLocationChange();
}

function unmark() {
  for (const button of element("hits").querySelectorAll("button")) {
    button.removeAttribute("aria-current");
  }
}

function goBack() {
  unmark();
  if (document.activeElement === element("back")) element("canvas").focus();
  show(0, scene.url, scene.name, left);
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
      button.lastChild.textContent += " · its file is not in --scans";
    }
    button.addEventListener("click", () => {
      unmark();
      button.setAttribute("aria-current", "true");
      show(hit.volume, hit.url, hit.scan, hit.point_mm);
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
  const name = element("name").textContent;
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
    say(`${answer.hits.length} places like ${spell(from)} mm of ${name}`);
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
      if (move && place) nv.moveCrosshairInVox(...move);
      else if (move) say("There is no scan on the page: Escape goes back.");
      else if (event.key === "Enter") search();
      else return;
      event.preventDefault();
      event.stopImmediatePropagation();
    },
    true,
  );
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !element("back").hidden) goBack();
  });
  element("window").addEventListener("change", setWindow);
  element("floor").addEventListener("input", setFloor);
  element("opacity").addEventListener("input", () => {
    if (nv.volumes[1]) nv.setOpacity(1, Number(element("opacity").value));
  });
  element("back").addEventListener("click", goBack);
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
