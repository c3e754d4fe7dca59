// Which nodes are changed, and how: a map of the model to press nodes in, and a slider for every set of them.
import { useState } from "preact/hooks";
import { Canvas, type Draw, diverging, largest, spread } from "./canvas";
import { signed } from "./format";
import { type Fill, about, active, fresh, put, putChange, question, removeChange, toggle } from "./live_state";
import { dark, study } from "./state";

const MARGIN = 44;
const GAP = 2;
const OFFERED = 6;

interface Spot { layer: number; row: number } // the last row is the MLP

const heads = (): number => about!.units.head;
const name = ({ layer, row }: Spot): string => (row === heads() ? `${layer}.mlp` : `${layer}.head.${row}`);

// A score of the circuit, and whether the circuit keeps the node.
function score({ layer, row }: Spot): number | null {
  const { scores } = study.value;
  return (row === heads() ? scores.mlp?.[layer] : scores.head?.[layer * heads() + row]) ?? null;
}

function inside({ layer, row }: Spot): boolean {
  const { kept } = study.value;
  const table = row === heads() ? kept.mlp : kept.head;
  return !table || table[row === heads() ? layer : layer * heads() + row] === 1;
}

export function Nodes() {
  const { changes } = question.value;
  return (
    <div>
      <Map />
      <Offers />
      {changes.map((_, at) => <Set at={at} key={at} />)}
      <Add />
    </div>
  );
}

function Map() {
  const [spot, setSpot] = useState<Spot | null>(null);
  const rows = heads() + 1;
  const shape = (width: number): { wide: number; tall: number } => {
    const wide = (width - MARGIN) / about!.layers;
    return { wide, tall: Math.max(8, Math.min(wide, 20, 400 / rows)) };
  };
  const find = (x: number, y: number, width: number): Spot | null => {
    const { wide, tall } = shape(width);
    const layer = Math.floor((x - MARGIN) / wide);
    const row = y >= heads() * tall + 8 ? heads() : Math.floor(y / tall);
    return layer >= 0 && layer < about!.layers && row >= 0 && y < rows * tall + 8 ? { layer, row: Math.min(row, heads()) } : null;
  };
  const keys = (event: KeyboardEvent): void => {
    const steps: Record<string, [number, number]> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    if (step) setSpot(spot ? { layer: clamp(spot.layer + step[0], about!.layers), row: clamp(spot.row + step[1], rows) } : { layer: 0, row: 0 });
    else if ((event.key === "Enter" || event.key === " ") && spot) toggle(name(spot));
    else return;
    event.preventDefault();
  };
  const press = (event: MouseEvent): void => {
    const at = find(event.offsetX, event.offsetY, (event.currentTarget as HTMLElement).clientWidth);
    if (at) toggle(name(at));
  };
  const value = spot && score(spot);
  return (
    <>
      <p class="row"><span class="label">Nodes</span> <span class="soft small">heads by layer and the MLPs below; press one to change it</span></p>
      <Canvas id="live-map" label="Heads and MLPs by layer. Arrow keys move, Enter changes the node in focus." height={(width) => rows * shape(width).tall + 28}
        paint={painted(shape, spot)} onPlace={(x, y, event) => setSpot(find(x, y, (event.currentTarget as HTMLElement).clientWidth))}
        onClick={press} onKeyDown={keys} onPointerLeave={() => setSpot(null)} />
      <p class="focus small" id="live-focus" aria-live="polite">{spot ? <><b>{name(spot)}</b> <span>{value === null ? "not scored" : `score ${signed(value)}`}</span> <span>{inside(spot) ? "in the circuit" : "not in the circuit"}</span></> : <span class="soft">Colour: the circuit’s score; grey: not in it.</span>}</p>
    </>
  );
}

const clamp = (value: number, count: number): number => Math.max(0, Math.min(count - 1, value));

function painted(shape: (width: number) => { wide: number; tall: number }, spot: Spot | null): Draw {
  const { scores } = study.value;
  const most = { head: largest(scores.head ?? new Float32Array()), mlp: largest(scores.mlp ?? new Float32Array()) };
  const changed = new globalThis.Set(question.value.changes.flatMap((each) => each.nodes));
  const night = dark.value;
  return (pen, width, colours) => {
    const { wide, tall } = shape(width);
    const rows = heads() + 1;
    pen.clearRect(0, 0, width, rows * tall + 28);
    pen.font = "11px system-ui, sans-serif";
    pen.lineWidth = 2;
    for (let layer = 0; layer < about!.layers; layer++) {
      for (let row = 0; row < rows; row++) {
        const at = { layer, row };
        const [x, y] = [MARGIN + layer * wide, row * tall + (row === heads() ? 8 : 0)];
        const [w, h] = [Math.max(1, wide - GAP), Math.max(1, tall - GAP)];
        pen.fillStyle = inside(at) ? diverging(spread(score(at) ?? 0, row === heads() ? most.mlp : most.head), night) : colours.pruned;
        pen.beginPath();
        pen.roundRect(x, y, w, h, Math.min(3, h / 4));
        pen.fill();
        if (changed.has(name(at))) cross(pen, x, y, w, h, colours.ink);
        if (spot && spot.layer === layer && spot.row === row) frame(pen, x, y, w, h, colours.ink);
      }
      if (wide > 15 || layer % Math.ceil(18 / wide) === 0) label(pen, String(layer), MARGIN + layer * wide + (wide - GAP) / 2, rows * tall + 22, colours.soft, "center");
    }
    label(pen, "heads", 0, Math.min(11, tall), colours.soft, "left");
    label(pen, "MLP", 0, heads() * tall + 8 + tall / 2 + 3, colours.soft, "left");
    label(pen, "layer", 0, rows * tall + 22, colours.soft, "left");
  };
}

function cross(pen: CanvasRenderingContext2D, x: number, y: number, w: number, h: number, ink: string): void {
  frame(pen, x, y, w, h, ink);
  pen.beginPath();
  pen.moveTo(x, y);
  pen.lineTo(x + w, y + h);
  pen.moveTo(x + w, y);
  pen.lineTo(x, y + h);
  pen.stroke();
}

function frame(pen: CanvasRenderingContext2D, x: number, y: number, w: number, h: number, ink: string): void {
  pen.strokeStyle = ink;
  pen.strokeRect(x - 0.5, y - 0.5, w + 1, h + 1);
}

function label(pen: CanvasRenderingContext2D, words: string, x: number, y: number, fill: string, align: CanvasTextAlign): void {
  pen.fillStyle = fill;
  pen.textAlign = align;
  pen.fillText(words, x, y);
}

// Where to begin: the heads and MLPs of the circuit with the largest scores.
function Offers() {
  const spots = Array.from({ length: about!.layers * (heads() + 1) }, (_, at): Spot => ({ layer: Math.floor(at / (heads() + 1)), row: at % (heads() + 1) }));
  const ranked = spots.filter((each) => each.row < heads() && inside(each) && score(each)).sort((a, b) => Math.abs(score(b)!) - Math.abs(score(a)!)).slice(0, OFFERED);
  const changed = question.value.changes.flatMap((each) => each.nodes);
  if (!ranked.length) return null;
  return (
    <p class="offers"><span class="soft small">Largest scores:</span>{ranked.map((each) => (
      <button type="button" class={changed.includes(name(each)) ? "on" : ""} aria-pressed={changed.includes(name(each))} onClick={() => toggle(name(each))}>{name(each)}</button>
    ))}</p>
  );
}

const SHOWN = 12;

function Set({ at }: { at: number }) {
  const { changes } = question.value;
  const { nodes, amount, fill } = changes[at];
  const slide = (remembered: boolean) => (event: { currentTarget: HTMLInputElement }): void => putChange(at, { amount: Number(event.currentTarget.value) }, remembered);
  return (
    <fieldset class={at === active.value && changes.length > 1 ? "set on" : "set"} onFocusCapture={() => { active.value = at; }} onPointerDown={() => { active.value = at; }}>
      <legend>{changes.length > 1 ? `Set ${at + 1}` : "Changed"}</legend>
      <button type="button" class="plain close" aria-label={`Remove set ${at + 1}`} onClick={() => removeChange(at)}>Remove</button>
      <p class="nodes">
        {nodes.slice(0, SHOWN).map((each) => <button type="button" class="chip" aria-label={`Leave ${each} alone`} onClick={() => toggle(each)}>{each} ×</button>)}
        {nodes.length > SHOWN && <span class="soft">and {nodes.length - SHOWN} more</span>}
        {nodes.length === 0 && <span class="soft">Press nodes above to put them here.</span>}
      </p>
      <p class="slider">
        <label for={`amount-${at}`}>Own value</label>
        <input type="range" id={`amount-${at}`} min={-1} max={2} step={0.05} list="amounts" value={amount} onInput={slide(false)} onChange={slide(true)} aria-valuetext={`${amount} of its own value`} />
        <output>× {amount.toFixed(2).replace("-", "−")}</output>
      </p>
      <p class="row">
        <label for={`fill-${at}`}>{amount === 1 ? "The rest from" : amount === 0 ? "Replaced by" : `The other ${(1 - amount).toFixed(2).replace("-", "−")} from`}</label>
        <select id={`fill-${at}`} value={fill} onChange={(event) => putChange(at, { fill: event.currentTarget.value as Fill }, event.currentTarget.value !== "prompt" || Boolean(question.value.other))}>
          {Object.entries(about!.fills).map(([value, text]) => <option value={value} disabled={value === "corrupt" && !question.value.corrupt}>{text}</option>)}
        </select>
      </p>
      {fill === "prompt" && <Other at={at} />}
    </fieldset>
  );
}

function Other({ at }: { at: number }) {
  return (
    <p class="row wide"><label for={`other-${at}`}>The other prompt</label>
      <input id={`other-${at}`} value={question.value.other} placeholder="of as many tokens" onChange={(event) => put({ other: event.currentTarget.value })} /></p>
  );
}

function Add() {
  const [text, setText] = useState("");
  const { changes } = question.value;
  const add = (event: Event): void => {
    event.preventDefault();
    const named = text.split(/[\s,]+/).filter(Boolean);
    if (!named.length) return;
    setText("");
    if (!changes.length) return put({ changes: [fresh(named)] });
    putChange(active.value, { nodes: [...new globalThis.Set([...changes[active.value].nodes, ...named])] });
  };
  const another = (): void => {
    put({ changes: [...changes, fresh([])] }, false);
    active.value = changes.length;
  };
  return (
    <form class="row add" onSubmit={add}>
      <label for="node">By name</label>
      <input id="node" value={text} placeholder="3.head.7 5.neuron.12" autocomplete="off" onInput={(event) => setText(event.currentTarget.value)} />
      <button type="submit">Change</button>
      {changes.length > 0 && <button type="button" onClick={another}>Another set</button>}
      {changes.length > 0 && <button type="button" onClick={() => { active.value = 0; put({ changes: [] }); }}>Undo all</button>}
      <datalist id="amounts"><option value="0" /><option value="1" /></datalist>
    </form>
  );
}
