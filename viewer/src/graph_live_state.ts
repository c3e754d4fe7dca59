// What is asked of the model behind a graph's page. The Python side is `view/graph_questions.py`.
import { computed, signal } from "@preact/signals";
import type { Item } from "./graph_model";
import { graph } from "./graph_state";
import { Asking, type Entry, type Token, aboutOf } from "./live_asking";

export type Fill = "zero" | "counterfactual" | "mean";
export interface GraphQuestion { features: string[]; amount: number; fill: Fill; counterfactual: string; draws: number; top: number }
export interface TargetChange { label: string; before: number; after: number; direct: number; through: number; random: number[] }
export interface GraphAnswer { features: number; kl: number; random: number; random_kl: number[]; targets: TargetChange[]; top: Token[]; top_before: Token[]; milliseconds: number }
interface GraphAbout { model: string; transcoders: string; prompt: string; fills: Partial<Record<Fill, string>>; difference: boolean }

export const about = aboutOf<GraphAbout>("transcoders");
export const question = signal<GraphQuestion>({ features: [], amount: 0, fill: "zero", counterfactual: "", draws: 5, top: 6 });
export const asking = new Asking<GraphQuestion, GraphAnswer>(() => question.value);
export const changed = computed(() => new Set(question.value.features));

export function put(given: Partial<GraphQuestion>, remembered = true): void {
  question.value = { ...question.value, ...given };
  asking.ask(remembered);
}

// The names of an item's features: none for a token, an error or a target.
export const featuresOf = (item: Item): string[] => item.members.map((at) => graph.value.nodes[at]).filter((each) => each.kind === "feature").map((each) => each.name);

// Whether all of an item's features are changed.
export function isChanged(item: Item): boolean {
  const names = about ? featuresOf(item) : [];
  return names.length > 0 && names.every((each) => changed.value.has(each));
}

// All of these features are changed, or none of them any more.
export function toggle(names: string[]): void {
  const all = names.every((each) => changed.value.has(each));
  const others = question.value.features.filter((each) => !names.includes(each));
  put({ features: all ? others : [...others, ...names] });
}

export const restore = (entry: Entry<GraphQuestion, GraphAnswer>): void => put(entry.question, false);
