// What is asked of the model behind a codebook's page. The Python side is `view/concept_questions.py`.
import { signal } from "@preact/signals";
import { page } from "./concept_state";
import { Asking, type Entry, type Token, aboutOf, call } from "./live_asking";

export type Place = "text" | "salient" | "judged";
export interface ConceptQuestion { text: string; code: number | null; where: Place; draws: number; top: number }
export interface ReadWord { word: string; score: number; code: number; distance: number; assigned: boolean }
export interface Without { probability: number; change: number; flipped: number; removed: number; shares: Record<string, number> }
export interface ConceptAnswer {
  answer: string; probability: number; shares: Record<string, number>; words: ReadWord[]; salient: number; code: number; now: string;
  concept: Without; random: Without; top: Token[]; milliseconds: number;
}
interface ConceptAbout { model: string; places: Record<Place, string>; examples: string[]; template: string; longest: number }

export const about = aboutOf<ConceptAbout>("places");
export const question = signal<ConceptQuestion>({ text: about?.examples[0] ?? "", code: null, where: "text", draws: 5, top: 8 });
export const asking = new Asking<ConceptQuestion, ConceptAnswer>(() => question.value);

export function put(changed: Partial<ConceptQuestion>, remembered = true): void {
  question.value = { ...question.value, ...changed };
  if (question.value.text.trim()) asking.ask(remembered);
}

// Another text is asked about its own most salient word.
export const read = (text: string): void => put({ text, code: null });
export const restore = (entry: Entry<ConceptQuestion, ConceptAnswer>): void => put(entry.question, false);
export const show = (): void => document.getElementById("live-view")?.scrollIntoView({ behavior: "smooth" });

// Keep a label in the codebook's folder. What the server refuses is thrown.
export async function label(id: string, text: string): Promise<void> {
  const labels = await call<Record<string, string>>(`api/labels/${id}`, "PUT", { label: text });
  const named = page.value.concepts.map((each) => ({ ...each, label: labels[each.id] ?? "" }));
  page.value = { ...page.value, concepts: named };
}
