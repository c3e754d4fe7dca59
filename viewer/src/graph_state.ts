// What the reader of an attribution graph has chosen.
import { computed, signal } from "@preact/signals";
import type { Graph, Item } from "./graph_model";

const FIRST = 120; // nodes that are shown to begin with, at most
const USUAL = 0.8; // of the influence: where circuit-tracer prunes

export const graph = signal<Graph>(null!);
export const count = signal(0); // features and errors, the most influential first
export const level = signal(0); // of the hierarchy; 0: single features
export const open = signal<ReadonlySet<string>>(new Set()); // groups that are shown as what they are made of
export const chosen = signal<string | null>(null);

export const items = computed(() => graph.value.items(count.value, level.value, open.value));
export const links = computed(() => graph.value.links(items.value));
export const selected = computed(() => items.value.findIndex((each) => each.key === chosen.value));

export function begin(given: Graph): void {
  graph.value = given;
  const usual = given.ranked.findIndex((node) => given.nodes[node].share > USUAL);
  count.value = Math.min(usual < 0 ? given.ranked.length : Math.max(1, usual), FIRST);
}

export function setLevel(to: number): void {
  level.value = to;
  open.value = new Set();
  chosen.value = null;
}

export function expand(item: Item): void {
  open.value = new Set([...open.value, ...graph.value.unfolds(item)]);
  chosen.value = null;
}

export function collapse(key: string): void {
  open.value = new Set([...open.value].filter((each) => each !== key));
  chosen.value = key;
}
