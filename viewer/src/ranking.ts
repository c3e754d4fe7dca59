// Every node's and edge's place in the order that the faithfulness curve was measured in, so that a circuit of any size
// is a comparison of ranks. The Python side is `evaluation/ranking.py`.
import type { Numbers, Order, Reader, Run } from "./payload";

// Which nodes are in a circuit: by a table of ones, or as the ranks below a size.
export class Membership {
  constructor(private values: Record<string, Numbers>, private below: number | null) {}

  has(kind: string, index: number): boolean {
    const value = this.values[kind]?.[index];
    return this.below === null ? value === 1 : value < this.below;
  }

  count(kind: string, start: number, end: number): number {
    const [values, below] = [this.values[kind], this.below];
    if (!values) return 0;
    let inside = 0;
    for (let at = start; at < end; at++) inside += Number(below === null ? values[at] === 1 : values[at] < below);
    return inside;
  }
}

const LINKS: [string, string][] = [
  ["channel", "head"], ["head", "attn"], ["kv", "attn"], ["neuron", "mlp"], ["mlp_out", "mlp"], ["attn", "block"], ["mlp", "block"],
];

export class Study {
  readonly scores: Record<string, Float32Array> = {};
  readonly kept: Record<string, Uint8Array> = {};
  readonly edges: { writer: Numbers; reader: Numbers } | null;
  readonly kinds: string[];
  private orders: Partial<Record<Order, Ranks>> = {};

  constructor(readonly run: Run, read: Reader) {
    this.kinds = Object.keys(run.grids);
    for (const [kind, grid] of Object.entries(run.grids)) {
      this.scores[kind] = read(grid.scores) as Float32Array;
      this.kept[kind] = read(grid.kept) as Uint8Array;
    }
    this.edges = run.edges && { writer: read(run.edges.writer), reader: read(run.edges.reader) };
    if (run.edges) {
      this.scores.edge = read(run.edges.scores) as Float32Array;
      this.kept.edge = read(run.edges.kept) as Uint8Array;
    }
  }

  // Items that are ranked: edges, or the finest gated nodes.
  get total(): number {
    return this.run.edges ? this.run.edges.total : this.finest.reduce((sum, kind) => sum + this.scores[kind].length, 0);
  }

  get finest(): string[] {
    return this.run.edges ? ["edge"] : Object.keys(this.run.lines);
  }

  // How many of the ranked items the circuit itself keeps.
  get found(): number {
    return this.finest.reduce((sum, kind) => sum + (this.run.sizes[kind]?.kept ?? 0), 0);
  }

  ranks(order: Order): Ranks {
    return (this.orders[order] ??= new Ranks(this, order));
  }

  // Which nodes are in: the circuit as it was found, or the first `size` items of an order.
  membership(order: Order, size: number | null): Membership {
    return new Membership(size === null ? this.kept : this.ranks(order).rank, size);
  }

  sizes(order: Order, size: number | null): Record<string, { kept: number; total: number }> {
    return size === null ? this.run.sizes : this.ranks(order).sizes(size);
  }
}

export class Ranks {
  readonly rank: Record<string, Uint32Array> = {}; // of a node that holds others: the best of them
  readonly first: Uint32Array; // items, the best ranked first; of edges, their numbers
  private sorted: Record<string, Uint32Array> = {};

  constructor(private study: Study, order: Order) {
    const layers = study.edges ? 1 : study.run.layers;
    const values = study.finest.map((kind) => this.values(kind, order));
    const units = values.map((each) => each.length / layers);
    const perLayer = units.reduce((sum, each) => sum + each, 0);
    const starts = units.map((_, at) => units.slice(0, at).reduce((sum, each) => sum + each, 0));
    const all = new Float32Array(layers * perLayer); // layer by layer: equal scores go to the earlier layer
    const slot = (at: number, layer: number): number => layer * perLayer + starts[at];
    values.forEach((each, at) => {
      for (let layer = 0; layer < layers; layer++) all.set(each.subarray(layer * units[at], (layer + 1) * units[at]), slot(at, layer));
    });
    const place = new Uint32Array(all.length);
    this.first = descending(all);
    this.first.forEach((item, position) => (place[item] = position));
    study.finest.forEach((kind, at) => {
      const ranks = (this.rank[kind] = new Uint32Array(values[at].length));
      for (let layer = 0; layer < layers; layer++) ranks.set(place.subarray(slot(at, layer), slot(at, layer) + units[at]), layer * units[at]);
    });
    if (study.edges) this.ofWriters(study.edges.writer);
    else this.ofParents();
    for (const [kind, ranks] of Object.entries(this.rank)) this.sorted[kind] = ranks.slice().sort();
  }

  sizes(size: number): Record<string, { kept: number; total: number }> {
    const found: Record<string, { kept: number; total: number }> = {};
    for (const kind of Object.keys(this.study.run.sizes)) {
      if (this.sorted[kind]) found[kind] = { kept: below(this.sorted[kind], size), total: this.study.run.sizes[kind].total };
    }
    return found;
  }

  // Gates close what lies in them, so the least along a node's line counts; effects stand for themselves.
  private values(kind: string, order: Order): Float32Array {
    const { run, scores } = this.study;
    if (order === "magnitude") return scores[kind].map(Math.abs);
    if (run.effects || kind === "edge") return scores[kind];
    const least = scores[kind].slice();
    for (const parent of run.lines[kind].slice(1)) {
      const ratio = least.length / scores[parent].length;
      for (let at = 0; at < least.length; at++) least[at] = Math.min(least[at], scores[parent][Math.floor(at / ratio)]);
    }
    return least;
  }

  private ofParents(): void {
    for (const [child, parent] of LINKS) {
      if (!this.rank[child] || !this.study.run.grids[parent] || this.study.finest.includes(parent)) continue;
      const best = (this.rank[parent] ??= new Uint32Array(this.study.scores[parent].length).fill(0xffffffff));
      lower(best, this.rank[child], (at) => Math.floor((at * best.length) / this.rank[child].length));
    }
  }

  // A head or an MLP is in when an edge that leaves it is.
  private ofWriters(writer: Numbers): void {
    const { run } = this.study;
    const heads = run.units.head ?? 0;
    for (const kind of ["head", "mlp"].filter((each) => run.grids[each])) {
      this.rank[kind] = new Uint32Array(this.study.scores[kind].length).fill(0xffffffff);
    }
    writer.forEach((name: number, edge: number) => {
      if (name === 0) return; // the embeddings
      const layer = Math.floor((name - 1) / (heads + 1));
      const unit = (name - 1) % (heads + 1);
      const [kind, at] = unit < heads ? ["head", layer * heads + unit] : ["mlp", layer];
      if (this.rank[kind]) this.rank[kind][at] = Math.min(this.rank[kind][at], this.rank.edge[edge]);
    });
  }
}

function lower(best: Uint32Array, ranks: Uint32Array, parent: (at: number) => number): void {
  for (let at = 0; at < ranks.length; at++) {
    const place = parent(at);
    if (ranks[at] < best[place]) best[place] = ranks[at];
  }
}

// Places in falling order of value; equal values stay in the order they had. The bits of a float sort as an integer
// does once negative ones are turned over, and two passes over 16 bits each are faster than a comparison sort.
export function descending(values: Float32Array): Uint32Array {
  const bits = new Uint32Array(values.map((value) => value + 0).buffer); // + 0: no negative zero
  const keys = bits.map((bit) => (bit & 0x80000000 ? bit : ~(bit | 0x80000000)) >>> 0);
  let order = Uint32Array.from(values.keys());
  for (const shift of [0, 16]) {
    const starts = new Uint32Array(65537);
    for (const key of keys) starts[((key >>> shift) & 0xffff) + 1]++;
    for (let at = 1; at < starts.length; at++) starts[at] += starts[at - 1];
    const next = new Uint32Array(order.length);
    for (const item of order) next[starts[(keys[item] >>> shift) & 0xffff]++] = item;
    order = next;
  }
  return order;
}

function below(sorted: Uint32Array, size: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < size) low = middle + 1;
    else high = middle;
  }
  return low;
}
