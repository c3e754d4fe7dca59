// The concepts of a codebook, and how they are found, sorted and called. The Python side is `report/concepts.py`.
import type { Estimate } from "./payload";

export interface Example { text: number; position: number; before: string; word: string; after: string; label: string }
export interface Writer { node: string; share: number; kept: boolean | null }
export interface Row { text: string; label: string; answer: string; word: string; code: number; before: number; after: number; flipped: boolean }

export interface Concept {
  id: string;
  label: string;
  name: string;
  code: number;
  size: number;
  words: Record<string, number>;
  examples: Example[];
  labels: Record<string, number>;
  similar: [number, number][];
  effect: { change: number; flipped: number; rows: number[] } | null;
  heads: Writer[];
  neurons: Writer[];
  embedding: number | null;
}

export interface Effect { change: Estimate; flipped: Estimate; accuracy: Estimate | null; either: number | null; removed: number; ahead: Estimate | null; probe: Estimate | null; retrained: Estimate | null }

export interface Score {
  method: string;
  texts: number;
  where: "text" | "salient" | "judged";
  centred: boolean;
  matched: boolean;
  accuracy: Estimate | null;
  concepts: number;
  unassigned: number;
  concept: Effect;
  controls: Record<string, Effect>;
  probe: Estimate | null;
  exchange: Record<string, Estimate>;
  absent: Record<string, string>;
  rows: Row[];
}

export interface ConceptPage {
  folder: string;
  about: { method: string; settings: Record<string, unknown>; model: string; revision: string; dtype: string; layer: number; upper: number | null; asked: number; states: number; perplexity: number; beyond: number; seconds: number };
  frame: { template: string; labels: Record<string, string>; tokens: number; unit: string };
  threshold: number;
  texts: Record<string, number>;
  concepts: Concept[];
  score: Score | null;
  verdict: string;
  reason: string;
  stability: number[] | null;
  seeds: { seed: number; change: Estimate; ahead: Estimate }[] | null;
  circuit: { folder: string; task: string; method: string; heads: number; neurons: number } | null;
  note: string;
  warnings: string[];
  files: Record<string, string>;
}

export type By = "states" | "name" | "label" | "effect";

export const called = (concept: Concept): string => concept.label || concept.name || `concept ${concept.code}`;

const SURE = 2; // standard errors by which a share must differ from that of all states to be told in the list

// The label that a concept's texts have more often than all texts, if there is one.
export function lean(concept: Concept, all: Record<string, number>): { label: string; share: number; lift: number } | null {
  const lifts = Object.entries(concept.labels).map(([label, share]) => ({ label, share, lift: share - all[label] }));
  const sure = lifts.filter(({ label, lift }) => lift > SURE * Math.sqrt((all[label] * (1 - all[label])) / concept.size));
  return sure.length ? sure.reduce((best, each) => (each.lift > best.lift ? each : best)) : null;
}

// Every word that was typed is in one of its words, its names, its id or the nodes that write it.
export function matches(concept: Concept, typed: string): boolean {
  const said = [...Object.keys(concept.words), concept.name, concept.label, concept.id, ...[...concept.heads, ...concept.neurons].map((each) => each.node)];
  const folded = said.map((each) => each.toLowerCase());
  return typed.toLowerCase().split(/\s+/).filter(Boolean).every((part) => folded.some((each) => (part.includes(".") && /\d/.test(part) ? each === part : each.includes(part))));
}

export function sorted(concepts: Concept[], by: By, all: Record<string, number>): Concept[] {
  const value: Record<Exclude<By, "name">, (each: Concept) => number> = {
    states: (each) => each.size,
    label: (each) => lean(each, all)?.lift ?? 0,
    effect: (each) => each.effect?.change ?? -1,
  };
  const compare = by === "name" ? (a: Concept, b: Concept) => called(a).localeCompare(called(b)) : (a: Concept, b: Concept) => value[by](b) - value[by](a);
  return [...concepts].sort((a, b) => compare(a, b) || b.size - a.size || a.code - b.code);
}
