// Where the items of an attribution graph stand: tokens below, targets on top, a row per layer, a column per position.
import { type Graph, type Item, word } from "./graph_model";

export const SLOT = 17; // px that a node takes in its cell
const LEFT = 34;
const TALL = 330; // px that the layers take at least, where they need no more
const EMPTY = 7; // px of a layer without a node
const BOX = 24; // height of tokens and targets
const WIDEST = 4; // nodes side by side for which a column asks for room

export interface Spot { x: number; y: number; width: number } // of its middle
export interface Layout { spots: Spot[]; rows: { name: string; y: number }[]; height: number; slanted: boolean }

export function layout(graph: Graph, items: Item[], width: number): Layout {
  const { layers, words } = graph.page.file;
  const cells = new Map<string, number[]>();
  const ends: Record<string, number[]> = { token: [], target: [] };
  items.forEach((item, at) => {
    const { kind, layer, position } = graph.nodes[item.place];
    if (kind === "token" || kind === "target") return void ends[kind].push(at);
    const cell = `${layer} ${position}`;
    cells.set(cell, [...(cells.get(cell) ?? []), at]);
  });
  const of = (layer: number, position: number): number[] => cells.get(`${layer} ${position}`) ?? [];
  const columns = columnsOf(words.length, width, (position) => Math.max(0, ...Array.from({ length: layers }, (_, layer) => of(layer, position).length)));
  const slanted = columns.some((each, at) => word(words[at]).length * 7.5 + 12 > each.width);
  const spots: Spot[] = [];
  const rows: Layout["rows"] = [];
  const gap = Math.max(10, Math.min(34, TALL / layers - SLOT)); // between a row and the next
  let y = BOX + 20;
  for (let layer = layers - 1; layer >= 0; layer--) {
    const lines = Math.max(...columns.map((column, position) => Math.ceil(of(layer, position).length / perLine(column.width))));
    const tall = lines ? lines * SLOT + gap : EMPTY;
    columns.forEach((column, position) => place(of(layer, position), column, y, tall));
    rows.push({ name: String(layer), y: y + tall / 2 });
    y += tall;
  }
  y += 10;
  ends.token.forEach((at) => {
    const column = columns[graph.nodes[items[at].place].position];
    spots[at] = { x: column.x, y: y + BOX / 2, width: Math.min(column.width - 4, 130) };
  });
  const share = Math.min((width - LEFT) / ends.target.length, 190);
  ends.target.forEach((at, index) => (spots[at] = { x: width - share * (ends.target.length - index - 0.5), y: BOX / 2 + 2, width: share - 6 }));
  return { spots, rows, height: y + BOX + (slanted ? 62 : 6), slanted };

  function place(found: number[], column: { x: number; width: number }, top: number, tall: number): void {
    const side = perLine(column.width);
    const lines = Math.ceil(found.length / side);
    found.forEach((at, index) => {
      const line = Math.floor(index / side);
      const inLine = Math.min(side, found.length - line * side);
      spots[at] = { x: column.x + ((index % side) - (inLine - 1) / 2) * SLOT, y: top + tall / 2 + (line - (lines - 1) / 2) * SLOT, width: SLOT };
    });
  }
}

const perLine = (width: number): number => Math.max(1, Math.floor(width / SLOT));

function columnsOf(count: number, width: number, most: (position: number) => number): { x: number; width: number }[] {
  const asks = Array.from({ length: count }, (_, position) => 1 + Math.min(WIDEST, most(position)));
  const unit = (width - LEFT) / asks.reduce((sum, each) => sum + each, 0);
  let x = LEFT;
  return asks.map((ask) => {
    x += ask * unit;
    return { x: x - (ask * unit) / 2, width: ask * unit };
  });
}
