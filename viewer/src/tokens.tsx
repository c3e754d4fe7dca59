// Token by token: a prompt runs down the page, clean beside corrupted, and along each token what the circuit's nodes do
// at that position in every layer. Prompts whose tokens line up can be averaged.
import { signal } from "@preact/signals";
import { useState } from "preact/hooks";
import { Canvas, type Colours, type Draw, diverging, spread } from "./canvas";
import { number, signed, whole } from "./format";
import type { Tokens as File, TokenRow } from "./payload";
import { dark, run } from "./state";
import { Table } from "./table";

const ROW = 18;
const TOP = 20;
const VARIED = "…"; // stands for tokens that are not the same in all prompts of a mean

export const chosen = signal(""); // key of a choice; one that is not there stands for the first

interface Choice { key: string; name: string; rows: TokenRow[] }
interface Shown { clean: string[]; corrupt: string[]; differs: boolean[]; at: number; sums: number[]; grid: number[][]; parts: Record<string, number[][]> }
interface Spot { layer: number; position: number }

export const plain = (tokens: string[]): string => tokens.join("").replaceAll("·", " ").trim();

// Means first: prompts of one length that are judged at the same token and differ from their corruption at the same ones.
function choices(file: File): Choice[] {
  const groups = new Map<string, TokenRow[]>();
  for (const row of file.prompts.filter((each) => each.first)) {
    const key = [row.clean.length, row.at, ...Array.from(row.clean.keys()).filter((at) => row.clean[at] !== row.corrupt[at])].join(" ");
    groups.set(key, [...(groups.get(key) ?? []), row]);
  }
  const means = [...groups].filter(([, rows]) => rows.length > 1).sort((a, b) => b[1].length - a[1].length);
  return [
    ...means.map(([key, rows]) => ({ key, name: `mean of ${rows.length} prompts that line up, ${rows[0].clean.length} tokens`, rows })),
    ...file.prompts.toSorted((a, b) => b.kl - a.kl).map((row) => ({ key: `row ${row.row}`, name: `prompt ${row.row}: ${plain(row.clean)}`, rows: [row] })),
  ];
}

function shownOf(rows: TokenRow[], branch: string): Shown {
  const same = (read: (row: TokenRow) => string): string => (rows.every((row) => read(row) === read(rows[0])) ? read(rows[0]) : VARIED);
  const positions = [...rows[0].clean.keys()];
  const mean = (name: string): number[][] => rows[0].effects[name].map((layer, at) => layer.map((_, position) => rows.reduce((sum, row) => sum + row.effects[name][at][position], 0) / rows.length));
  const parts = Object.fromEntries(Object.keys(rows[0].effects).map((name) => [name, mean(name)]));
  const used = branch === "all" ? Object.values(parts) : [parts[branch]];
  const grid = used[0].map((layer, at) => layer.map((_, position) => used.reduce((sum, each) => sum + each[at][position], 0)));
  return {
    clean: positions.map((at) => same((row) => row.clean[at])), corrupt: positions.map((at) => same((row) => row.corrupt[at])),
    differs: positions.map((at) => rows[0].clean[at] !== rows[0].corrupt[at]), at: rows[0].at, parts, grid,
    sums: positions.map((position) => grid.reduce((sum, layer) => sum + layer[position], 0)),
  };
}

export function Tokens() {
  const [branch, setBranch] = useState("all");
  const [spot, setSpot] = useState<Spot | null>(null);
  const { tokens: file, layers, traced } = run.value;
  if (!file?.prompts.length) return null;
  const all = choices(file);
  const index = Math.max(0, all.findIndex((each) => each.key === chosen.value));
  const { rows } = all[index];
  const branches = Object.keys(rows[0].effects);
  const about = shownOf(rows, branches.includes(branch) ? branch : "all");
  const count = about.clean.length;
  const go = (to: number): void => void (chosen.value = all[(to + all.length) % all.length].key);
  const point = (x: number, y: number, event: PointerEvent): void => {
    const { left, wide } = shape((event.currentTarget as HTMLElement).clientWidth, layers);
    const [layer, position] = [Math.floor((x - left) / wide), Math.floor((y - TOP) / ROW)];
    setSpot(position >= 0 && position < count ? { layer: layer >= 0 && layer < layers ? layer : -1, position } : null);
  };
  const walk = (event: KeyboardEvent): void => {
    const by = ({ ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] } as Record<string, [number, number]>)[event.key];
    if (!by) return;
    event.preventDefault();
    const from = spot ?? { layer: -by[0], position: -by[1] };
    setSpot({ layer: clamp(from.layer + by[0], layers), position: clamp(from.position + by[1], count) });
  };
  return (
    <figure id="tokens-view">
      <figcaption>
        <h2>Token by token</h2>
        <p>{traced
          ? `What replacing the circuit's nodes at one position adds to the change of ${file.metric}, layer by layer.`
          : "What the circuit's nodes at one position add to the logit difference, layer by layer: orange speaks for the right answer, blue against it."} Tokens that the corrupted prompt has otherwise are in colour; ▸ marks the token that is judged.</p>
      </figcaption>
      <div class="tools">
        <span class="picker">
          <button type="button" aria-label="Previous prompt" onClick={() => go(index - 1)}>‹</button>
          <select aria-label="Prompt" id="token-choice" value={all[index].key} onChange={(event) => void (chosen.value = event.currentTarget.value)}>
            {all.map((each) => <option value={each.key} selected={each.key === all[index].key}>{each.name}</option>)}
          </select>
          <button type="button" aria-label="Next prompt" onClick={() => go(index + 1)}>›</button>
        </span>
        {branches.length > 1 && (
          <span class="choice" role="group" aria-label="Branch">
            {[["all", "both"], ["attn", "attention"], ["mlp", "MLPs"]].map(([each, name]) => <button type="button" class={branch === each ? "on" : ""} aria-pressed={branch === each} onClick={() => setBranch(each)}>{name}</button>)}
          </span>
        )}
      </div>
      <p class="printed">{all[index].name}</p>
      <Sum rows={rows} about={about} all={branch === "all"} />
      <Canvas label="Effect by token and layer. Arrow keys move over it; the table has every position." id="tokens"
        height={() => TOP + count * ROW + 24} paint={painted(about, layers, spot)} onPlace={point} onKeyDown={walk} onPointerLeave={() => setSpot(null)} />
      <p class="focus" aria-live="polite">{spot ? <About spot={spot} about={about} /> : <span class="soft">Point at a token or a cell, or walk over them with the arrow keys.</span>}</p>
      <Table summary="Every position as a table" count={count} columns={[{ name: "" }, { name: "clean", text: true }, { name: "corrupted", text: true }, ...branches.map((name) => ({ name: NAMES[name] })), { name: "sum" }]}
        row={(at) => {
          const parts = branches.map((name) => about.parts[name].reduce((sum, layer) => sum + layer[at], 0));
          return [at, about.clean[at], about.differs[at] ? about.corrupt[at] : "", ...parts.map(signed), signed(parts.reduce((sum, each) => sum + each, 0))];
        }} />
    </figure>
  );
}

const NAMES: Record<string, string> = { attn: "attention", mlp: "MLPs" };
const clamp = (value: number, count: number): number => Math.max(0, Math.min(count - 1, value));

function Sum({ rows, about, all }: { rows: TokenRow[]; about: Shown; all: boolean }) {
  const mean = (read: (row: TokenRow) => number): number => rows.reduce((sum, row) => sum + read(row), 0) / rows.length;
  const total = about.sums.reduce((sum, each) => sum + each, 0);
  const gain = mean((row) => row.gain);
  const [right, wrong] = [rows[0].answers, rows[0].wrong_answers].map((each) => each.slice(0, 3).map((token) => plain([token])).join(", ") + (each.length > 3 ? ", …" : ""));
  return (
    <p class="readout of-tokens">
      {rows.length === 1 && <span class="ink"><b>{right}</b>{wrong && <> against <b>{wrong}</b></>}</span>}
      <span>KL {number(mean((row) => row.kl))}</span>
      <span>{all ? "all effects" : "effects of this branch"} <data id="token-sum" value={total}>{signed(total)}</data></span>
      <span>{run.value.traced ? "measured effect of the circuit" : "measured: circuit above empty"} <data id="token-gain" value={gain}>{signed(gain)}</data></span>
    </p>
  );
}

function About({ spot: { layer, position }, about }: { spot: Spot; about: Shown }) {
  return (
    <>
      <b>{about.clean[position]}</b> {about.differs[position] && <span>corrupted: <b>{about.corrupt[position]}</b></span>} <span>position {whole(position)}{position === about.at && ", judged"}</span>
      {layer >= 0 && <span>layer {layer}: {signed(about.grid[layer][position])}</span>} <span>all layers: {signed(about.sums[position])}</span>
    </>
  );
}

// Two columns of tokens, the layers, and the sums at the right.
function shape(width: number, layers: number): { words: number; left: number; wide: number; bars: number } {
  const words = width < 480 ? 66 : 128;
  const bars = width < 480 ? 44 : 132;
  const left = 14 + 2 * words;
  return { words, left, wide: (width - left - bars - 10) / layers, bars };
}

function painted(about: Shown, layers: number, spot: Spot | null): Draw {
  const most = Math.max(...about.grid.flat().map(Math.abs), 1e-9);
  const longest = Math.max(...about.sums.map(Math.abs), 1e-9);
  const night = dark.value;
  return (pen, width, colours) => {
    const { words, left, wide, bars } = shape(width, layers);
    const zero = width - bars + (about.sums.some((each) => each < -0.02 * longest) ? bars * 0.4 : 0);
    pen.clearRect(0, 0, width, TOP + about.clean.length * ROW + 24);
    heading(pen, colours, [[14, "clean"], [14 + words, "corrupted"], [left, "layer"], [zero, "sum"]]);
    about.clean.forEach((_, position) => {
      const y = TOP + position * ROW;
      if (spot?.position === position) band(pen, [0, y, width, ROW], colours.pruned);
      tokensOf(pen, about, position, y, words, colours);
      for (let layer = 0; layer < layers; layer++) {
        pen.fillStyle = diverging(spread(about.grid[layer][position], most), night);
        pen.fillRect(left + layer * wide, y + 1, Math.max(1, wide - (wide > 5 ? 1.5 : 0.5)), ROW - 2);
      }
      const long = (about.sums[position] / longest) * (about.sums[position] < 0 ? zero - width + bars : width - zero - 2);
      pen.fillStyle = about.sums[position] < 0 ? colours.cool : colours.warm;
      if (Math.abs(long) >= 0.5) pen.fillRect(Math.min(zero, zero + long), y + 5, Math.abs(long), ROW - 10);
    });
    pen.fillStyle = colours.line;
    pen.fillRect(zero - 0.5, TOP, 1, about.clean.length * ROW);
    if (spot && spot.layer >= 0) ring(pen, [left + spot.layer * wide, TOP + spot.position * ROW + 1, wide, ROW - 2], colours.ink);
    axis(pen, layers, left, wide, TOP + about.clean.length * ROW + 14, colours.soft);
  };
}

type Box = [number, number, number, number];

function heading(pen: CanvasRenderingContext2D, colours: Colours, names: [number, string][]): void {
  pen.font = "11px system-ui, sans-serif";
  pen.textAlign = "left";
  pen.fillStyle = colours.soft;
  for (const [x, name] of names) pen.fillText(name, x, 11);
}

function tokensOf(pen: CanvasRenderingContext2D, about: Shown, position: number, y: number, words: number, colours: Colours): void {
  const differs = about.differs[position];
  pen.font = `${differs || position === about.at ? "600 " : ""}12px ui-monospace, "SF Mono", Menlo, Consolas, monospace`;
  if (position === about.at) {
    pen.fillStyle = colours.ink;
    pen.fillText("▸", 2, y + 13);
  }
  pen.fillStyle = differs ? colours.warm : colours.ink;
  pen.fillText(fitting(pen, about.clean[position], words - 8), 14, y + 13);
  pen.globalAlpha = differs ? 1 : 0.5;
  pen.fillStyle = differs ? colours.cool : colours.soft;
  pen.fillText(fitting(pen, about.corrupt[position], words - 8), 14 + words, y + 13);
  pen.globalAlpha = 1;
}

function fitting(pen: CanvasRenderingContext2D, text: string, width: number): string {
  if (pen.measureText(text).width <= width) return text;
  let end = text.length;
  while (end > 1 && pen.measureText(`${text.slice(0, end)}…`).width > width) end--;
  return `${text.slice(0, end)}…`;
}

function band(pen: CanvasRenderingContext2D, [x, y, w, h]: Box, fill: string): void {
  pen.fillStyle = fill;
  pen.fillRect(x, y, w, h);
}

function ring(pen: CanvasRenderingContext2D, [x, y, w, h]: Box, ink: string): void {
  pen.strokeStyle = ink;
  pen.lineWidth = 1.5;
  pen.strokeRect(x - 0.5, y - 0.5, w, h + 1);
}

function axis(pen: CanvasRenderingContext2D, layers: number, left: number, wide: number, y: number, ink: string): void {
  pen.font = "11px system-ui, sans-serif";
  pen.fillStyle = ink;
  pen.textAlign = "center";
  for (let layer = 0; layer < layers; layer += wide > 15 ? 1 : Math.ceil(18 / wide)) pen.fillText(String(layer), left + (layer + 0.5) * wide, y);
  pen.textAlign = "left";
}
