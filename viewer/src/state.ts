// What the reader has chosen. Views read signals while they draw, and are drawn again when these change.
import { computed, signal } from "@preact/signals";
import type { Order, Payload } from "./payload";
import type { Study } from "./ranking";

export const payload = signal<Payload>({ runs: [], comparison: null });
export const studies = signal<Study[]>([]);
export const shown = signal(0); // which run
export const size = signal<number | null>(null); // items of the ranking; null: the circuit as it was found
export const order = signal<Order>("score");
export const dark = signal(false);

export const study = computed(() => studies.value[shown.value]);
export const run = computed(() => study.value.run);
export const kept = computed(() => study.value.membership(order.value, size.value));
export const sizes = computed(() => study.value.sizes(order.value, size.value));
export const curve = computed(() => run.value.full?.curves.find((each) => each.order === order.value) ?? null);

// A causal tracing replaces its nodes; any other circuit keeps them.
export const words = computed(() => (run.value.traced ? { in: "replaced", out: "left as it is" } : { in: "kept", out: "pruned" }));

export function show(index: number): void {
  shown.value = index;
  size.value = null;
  const { effects, origin } = studies.value[index].run;
  order.value = effects && origin.settings.rank === "magnitude" ? "magnitude" : "score";
}

// Dark as the system has it, unless the reader chose otherwise.
export function followTheme(): void {
  const system = matchMedia("(prefers-color-scheme: dark)");
  setTheme(system.matches);
  system.addEventListener("change", () => setTheme(system.matches));
}

export function setTheme(on: boolean): void {
  document.documentElement.dataset.theme = on ? "dark" : "light";
  dark.value = on;
}
