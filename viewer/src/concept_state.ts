// What the reader of a codebook has chosen. The concept that is open stands in the address, so that it can be linked to.
import { computed, signal } from "@preact/signals";
import { type By, type Concept, type ConceptPage, matches, sorted } from "./concept_model";

export const page = signal<ConceptPage>(null!);
export const typed = signal(""); // in the filter
export const by = signal<By>("states");
export const chosen = signal(0); // a code

export const listed = computed(() => sorted(page.value.concepts.filter((each) => matches(each, typed.value)), by.value, page.value.texts));
export const concept = computed<Concept>(() => page.value.concepts[chosen.value]);

export function begin(given: ConceptPage): void {
  page.value = given;
  const linked = (): number => given.concepts.findIndex((each) => `#${each.id}` === location.hash);
  chosen.value = linked() < 0 ? sorted(given.concepts, "states", given.texts)[0].code : linked();
  addEventListener("hashchange", () => linked() >= 0 && (chosen.value = linked()));
}

export function choose(code: number): void {
  chosen.value = code;
  history.replaceState(null, "", `#${page.value.concepts[code].id}`);
}
