// An attribution graph as the page was given it, and what is shown of it: single nodes, or groups in their place, with
// the sums of the effects between them. The Python side is `report/graphs.py`.
import type { Numbers, Place } from "./payload";

export interface GraphNode {
  name: string;
  kind: "feature" | "error" | "token" | "target";
  layer: number; // -1 for a token, one past the last for a target
  position: number;
  influence: number;
  share: number; // of all influence: what more influential nodes and this one have
  activation: number | null;
  inputs: number; // sizes of all effects on it
}

export interface Example { before: string; token: string; after: string; activation: number }

export interface GraphFile {
  model: string;
  revision: string;
  prompt: string;
  words: string[];
  layers: number;
  targets: { token: number; label: string; weight: number; logit: number }[];
  features: number;
  active: number;
  replacement: number;
  completeness: number;
  settings: Record<string, unknown>;
  transcoders: Record<string, string>;
  seconds: number;
  versions: Record<string, string>;
}

export interface GraphPage {
  folder: string;
  file: GraphFile;
  nodes: GraphNode[];
  effects: Place;
  levels: number[][];
  examples: Record<string, Example[]>;
  left_out: number;
  warnings: string[];
  commands: string[];
}

export interface Item {
  key: string;
  name: string;
  kind: GraphNode["kind"] | "group";
  members: number[];
  place: number; // the member that stands for all: the most influential
  influence: number;
  level: number; // of a group
}

// `effect` is signed and summed up, `share` is of all that reaches the target, `flow` the influence that passes.
export interface Link { from: number; to: number; effect: number; share: number; flow: number }

export class Graph {
  readonly nodes: GraphNode[];
  readonly ranked: number[]; // features and errors, the most influential first

  constructor(readonly page: GraphPage, readonly effects: Numbers) {
    this.nodes = page.nodes;
    const inner = [...this.nodes.keys()].filter((at) => this.nodes[at].kind === "feature" || this.nodes[at].kind === "error");
    this.ranked = inner.sort((a, b) => this.nodes[b].influence - this.nodes[a].influence);
  }

  // The first `count` of the ranking at a level of the hierarchy, but for groups that are open; tokens and targets.
  items(count: number, level: number, open: ReadonlySet<string>): Item[] {
    const found = new Map<string, Item>();
    const chosen = new Set(this.ranked.slice(0, count));
    this.nodes.forEach((node, at) => {
      if ((node.kind === "feature" || node.kind === "error") && !chosen.has(at)) return;
      let depth = node.kind === "feature" ? level : 0;
      while (depth > 0 && open.has(this.key(at, depth))) depth--;
      const key = this.key(at, depth);
      const item = found.get(key);
      if (item) item.members.push(at);
      else found.set(key, { key, name: node.name, kind: node.kind, members: [at], place: at, influence: 0, level: depth });
    });
    return [...found.values()].map((item) => this.described(item));
  }

  // Of the groups that a node is in at coarser levels, those that are open: what it can be folded back into.
  folds(item: Item, level: number, open: ReadonlySet<string>): string[] {
    if (item.kind !== "feature" && item.kind !== "group") return [];
    return Array.from({ length: level }, (_, at) => this.key(item.place, at + 1)).filter((key) => open.has(key));
  }

  // What to open so that a group comes apart: itself, and finer groups that have all of its members.
  unfolds(item: Item): string[] {
    const { levels } = this.page;
    const found = [item.key];
    for (let depth = item.level - 1; depth > 0; depth--) {
      const [first, ...others] = item.members.map((node) => levels[depth][node]);
      if (others.some((each) => each !== first)) break;
      found.push(`${depth}:${first}`);
    }
    return found;
  }

  links(items: Item[]): Link[] {
    const { nodes, effects } = this;
    const count = items.length;
    const [sums, sizes, flows] = [new Float64Array(count * count), new Float64Array(count * count), new Float64Array(count * count)];
    const own = new Int32Array(nodes.length).fill(-1);
    items.forEach((item, at) => item.members.forEach((node) => (own[node] = at)));
    const inputs = items.map((item) => item.members.reduce((sum, node) => sum + nodes[node].inputs, 0));
    for (let target = 0; target < nodes.length; target++) {
      const into = own[target];
      if (into < 0 || !nodes[target].inputs) continue;
      const weight = (nodes[target].influence + this.start(target)) / nodes[target].inputs;
      for (let source = 0; source < nodes.length; source++) {
        const effect = effects[target * nodes.length + source];
        if (!effect || own[source] < 0 || own[source] === into) continue;
        const at = into * count + own[source];
        sums[at] += effect;
        sizes[at] += Math.abs(effect);
        flows[at] += Math.abs(effect) * weight;
      }
    }
    const found: Link[] = [];
    sizes.forEach((size, at) => {
      const [to, from] = [Math.floor(at / count), at % count];
      if (size) found.push({ from, to, effect: sums[at], share: size / inputs[to], flow: flows[at] });
    });
    return found.sort((a, b) => b.flow - a.flow);
  }

  // Where influence starts: the weights of the targets, which come last.
  start(node: number): number {
    return this.page.file.targets[node - (this.nodes.length - this.page.file.targets.length)]?.weight ?? 0;
  }

  private key(node: number, depth: number): string {
    return depth ? `${depth}:${this.page.levels[depth][node]}` : `n${node}`; // features come first, as in the levels
  }

  private described(item: Item): Item {
    const by = (node: number): number => this.nodes[node].influence;
    const place = item.members.reduce((a, b) => (by(b) > by(a) ? b : a));
    const more = item.members.length - 1;
    const influence = item.members.reduce((sum, node) => sum + by(node), 0);
    const name = more ? `${this.nodes[place].name} and ${more} more` : this.nodes[place].name;
    return { ...item, place, influence, name, kind: more ? "group" : this.nodes[place].kind };
  }
}

// What is written of a token where there is little room.
export const word = (text: string): string => text.trim() || (text.includes("\n") ? "⏎" : "␣");
