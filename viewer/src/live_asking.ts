// Questions to the model behind a served page, one at a time, whatever they are about. The Python side is `view/server.py`.
import { batch, signal } from "@preact/signals";

export interface Problem { kind: string; message: string; cure: string }
export interface Entry<Q, A> { number: number; when: string; summary: string; question: Q; answer: A }
export interface Token { id: number; text: string; logit: number; probability: number; logit_before: number; probability_before: number }

const block = document.getElementById("live");
const told = block && (JSON.parse(block.textContent!) as object);

// What the server tells of its session: null in a file, and on pages of another kind, whose sessions lack this field.
export const aboutOf = <T>(field: keyof T & string): T | null => (told && field in told ? (told as T) : null);

interface Going { id: string; stop: AbortController }

export class Asking<Q, A> {
  readonly answer = signal<A | null>(null);
  readonly asked = signal<Q | null>(null); // what the answer is to
  readonly problem = signal<Problem | null>(null);
  readonly busy = signal(false);
  readonly ahead = signal(0); // questions of other pages that come first
  readonly taken = signal<number | null>(null); // milliseconds from the question to its answer, as this page had it
  readonly history = signal<Entry<Q, A>[]>([]);
  private going: Going | null = null;
  private next: boolean | null = null; // whether the question that waits here is to be remembered

  constructor(private readonly question: () => Q) {}

  // While the model is at one question only the newest of those that follow is kept.
  ask(remembered: boolean): void {
    if (this.going) this.next = remembered || Boolean(this.next);
    else void this.send(remembered);
  }

  cancel(): void {
    this.next = null;
    this.going?.stop.abort();
  }

  async remember(): Promise<void> {
    this.history.value = (await (await fetch("api/history")).json()) as Entry<Q, A>[];
  }

  private async send(remembered: boolean): Promise<void> {
    const [sent, begun] = [this.question(), performance.now()];
    const mine: Going = (this.going = { id: crypto.randomUUID(), stop: new AbortController() });
    this.busy.value = true;
    const watch = setInterval(() => void this.look(mine.id), 600);
    try {
      const found = await call<A>("api/ask", "POST", { question: sent, id: mine.id, remembered }, mine.stop.signal);
      batch(() => {
        [this.answer.value, this.asked.value, this.problem.value] = [found, sent, null];
        this.taken.value = performance.now() - begun;
      });
    } catch (error) {
      this.problem.value = mine.stop.signal.aborted ? { kind: "Cancelled", message: "Cancelled.", cure: "" } : problemOf(error);
    } finally {
      clearInterval(watch);
      batch(() => {
        [this.busy.value, this.ahead.value, this.going] = [false, 0, null];
      });
    }
    if (this.next !== null) {
      const again = this.next;
      this.next = null;
      void this.send(again);
    } else if (remembered) void this.remember();
  }

  private async look(id: string): Promise<void> {
    const line = (await (await fetch("api/queue")).json()) as { id: string }[];
    this.ahead.value = Math.max(0, line.findIndex((each) => each.id === id));
  }
}

class Refused extends Error {
  constructor(readonly problem: Problem) {
    super(problem.message);
  }
}

// A call of the server's; what it refuses is thrown, and told by `problemOf`.
export async function call<A>(path: string, method: string, content: unknown, stop?: AbortSignal): Promise<A> {
  const reply = await fetch(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(content), signal: stop });
  const found: unknown = await reply.json();
  if (!reply.ok) throw new Refused(found as Problem);
  return found as A;
}

export function problemOf(error: unknown): Problem {
  if (error instanceof Refused) return error.problem;
  return { kind: "Lost", message: `The server does not answer (${error}).`, cure: "Is `subcircuit view` still running?" };
}
