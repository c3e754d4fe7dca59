// What is asked of the model behind a served page, and what it answered. The Python side is `view/questions.py`.
import { batch, computed, signal } from "@preact/signals";

export type Fill = "zero" | "corrupt" | "mean" | "prompt";
export interface Change { nodes: string[]; amount: number; fill: Fill }
export interface Question {
  clean: string; corrupt: string; other: string; answers: string[]; wrong_answers: string[];
  start: "model" | "circuit"; changes: Change[]; positions: number[] | null; top: number;
}
export interface Judged { logit_difference: number | null; probability: number | null }
export interface Token { id: number; text: string; logit: number; probability: number; logit_before: number; probability_before: number }
export interface Answer {
  tokens: string[]; corrupt_tokens: string[]; at: number; full: Judged; counterfactual: Judged | null; changed: Judged;
  kl: number; top: Token[]; top_before: Token[]; python: string; milliseconds: number;
}
export interface Problem { kind: string; message: string; cure: string }
export interface Entry { number: number; when: string; summary: string; question: Question; answer: Answer }
export interface Example { clean: string; corrupt: string; answers: string[]; wrong_answers: string[] }
export interface About {
  model: string; folder: string; layers: number; units: Record<string, number>; fills: Partial<Record<Fill, string>>;
  examples: Example[]; no_examples: string; no_circuit: string; longest: number;
}

const block = document.getElementById("live");
export const about: About | null = block && (JSON.parse(block.textContent!) as About);

export const question = signal<Question>(blank());
export const active = signal(0); // the set of nodes that a click adds to
export const answer = signal<Answer | null>(null);
export const asked = signal<Question | null>(null); // what the answer is to
export const problem = signal<Problem | null>(null);
export const busy = signal(false);
export const ahead = signal(0); // questions of other pages that come first
export const taken = signal<number | null>(null); // milliseconds from the question to its answer, as this page had it
export const history = signal<Entry[]>([]);

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
  if (question.value.clean.trim()) ask(remembered);
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

interface Going { id: string; stop: AbortController }
let going: Going | null = null;
let next: boolean | null = null; // whether the question that waits here is to be remembered

// One question at a time: while the model is at it only the newest of those that follow is kept.
function ask(remembered: boolean): void {
  if (going) next = remembered || Boolean(next);
  else void send(remembered);
}

async function send(remembered: boolean): Promise<void> {
  const [sent, begun] = [question.value, performance.now()];
  const mine: Going = (going = { id: crypto.randomUUID(), stop: new AbortController() });
  busy.value = true;
  const watch = setInterval(() => void look(mine.id), 600);
  try {
    const body = JSON.stringify({ question: sent, id: mine.id, remembered });
    const reply = await fetch("api/ask", { method: "POST", headers: { "Content-Type": "application/json" }, body, signal: mine.stop.signal });
    const found: unknown = await reply.json();
    batch(() => {
      problem.value = reply.ok ? null : (found as Problem);
      if (!reply.ok) return;
      [answer.value, asked.value] = [found as Answer, sent];
      taken.value = performance.now() - begun;
    });
  } catch (error) {
    problem.value = mine.stop.signal.aborted ? { kind: "Cancelled", message: "Cancelled.", cure: "" } : lost(error);
  } finally {
    clearInterval(watch);
    batch(() => {
      [busy.value, ahead.value, going] = [false, 0, null];
    });
  }
  if (next !== null) {
    const again = next;
    next = null;
    void send(again);
  } else if (remembered) void remember();
}

const lost = (error: unknown): Problem => ({ kind: "Lost", message: `The server does not answer (${error}).`, cure: "Is `subcircuit view` still running?" });

export function cancel(): void {
  next = null;
  going?.stop.abort();
}

async function look(id: string): Promise<void> {
  const line = (await (await fetch("api/queue")).json()) as { id: string }[];
  ahead.value = Math.max(0, line.findIndex((each) => each.id === id));
}

export async function remember(): Promise<void> {
  history.value = (await (await fetch("api/history")).json()) as Entry[];
}

export function restore(entry: Entry): void {
  active.value = 0;
  put(entry.question, false);
}
