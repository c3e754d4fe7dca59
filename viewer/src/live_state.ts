// What is asked of the model behind a served page, and what it answered. The Python side is `view/questions.py`.
import { batch, computed, signal } from "@preact/signals";
import { Asking, type Entry, type Token, aboutOf } from "./live_asking";

export type Fill = "zero" | "corrupt" | "mean" | "prompt";
export interface Change { nodes: string[]; amount: number; fill: Fill }
export interface Question {
  clean: string; corrupt: string; other: string; answers: string[]; wrong_answers: string[];
  start: "model" | "circuit"; changes: Change[]; positions: number[] | null; top: number;
}
export interface Judged { logit_difference: number | null; probability: number | null }
export interface Answer {
  tokens: string[]; corrupt_tokens: string[]; at: number; full: Judged; counterfactual: Judged | null; changed: Judged;
  kl: number; top: Token[]; top_before: Token[]; python: string; milliseconds: number;
}
export interface Example { clean: string; corrupt: string; answers: string[]; wrong_answers: string[] }
export interface About {
  model: string; folder: string; layers: number; units: Record<string, number>; fills: Partial<Record<Fill, string>>;
  examples: Example[]; no_examples: string; no_circuit: string; longest: number;
}

export const about = aboutOf<About>("layers");

export const question = signal<Question>(blank());
export const active = signal(0); // the set of nodes that a click adds to
export const asking = new Asking<Question, Answer>(() => question.value);
export const { answer, asked } = asking;

export const right = computed(() => new Set(asked.value?.answers.map((each) => each.trim())));
export const wrong = computed(() => new Set(asked.value?.wrong_answers.map((each) => each.trim())));

function blank(): Question {
  const example = about?.examples[0] ?? { clean: "", corrupt: "", answers: [], wrong_answers: [] };
  return { ...example, other: "", start: "model", changes: [], positions: null, top: 10 };
}

export const fresh = (nodes: string[]): Change => ({ nodes, amount: 0, fill: question.value.corrupt ? "corrupt" : "zero" });

// Change the question and ask it: at once while something is dragged, and for the history when it is let go.
export function put(changed: Partial<Question>, remembered = true): void {
  question.value = { ...question.value, ...changed };
  if (question.value.clean.trim()) asking.ask(remembered);
}

export function putChange(at: number, changed: Partial<Change>, remembered = true): void {
  put({ changes: question.value.changes.map((each, index) => (index === at ? { ...each, ...changed } : each)) }, remembered);
}

// In the active set, or out of whichever it is in.
export function toggle(node: string): void {
  const { changes } = question.value;
  const inside = changes.some((each) => each.nodes.includes(node));
  const without = changes.map((each) => ({ ...each, nodes: each.nodes.filter((name) => name !== node) }));
  if (inside) return put({ changes: without.filter((each, at) => each.nodes.length || at === active.value) });
  if (!changes.length) return put({ changes: [fresh([node])] });
  put({ changes: changes.map((each, at) => (at === active.value ? { ...each, nodes: [...each.nodes, node] } : each)) });
}

export function removeChange(at: number): void {
  batch(() => {
    active.value = Math.max(0, active.value - Number(active.value >= at));
    put({ changes: question.value.changes.filter((_, index) => index !== at) });
  });
}

export function restore(entry: Entry<Question, Answer>): void {
  active.value = 0;
  put(entry.question, false);
}
