// What the page was given: the JSON header, and the typed arrays behind it. The Python side is `report/payload.py`.
import type { ConceptPage } from "./concept_model";
import type { GraphPage } from "./graph_model";

export interface Estimate { mean: number; low: number; high: number }
export interface Size { kept: number; total: number }
export interface Place { dtype: "f4" | "u1" | "u2" | "u4"; shape: number[]; start: number }

export interface Scores {
  kl: Estimate;
  faithfulness: Estimate | null;
  logit_difference: Estimate;
  accuracy: Estimate;
  exact_match: Estimate;
  effect?: Estimate | null; // of a causal tracing, on its own metric
}

export interface Evidence {
  split: string;
  pairs: number;
  reference: string;
  seed: number;
  full: Scores;
  circuit: Scores;
  empty: Scores;
  attribution: Scores;
  integrated: Scores;
  random: Scores[];
  prompts: { kl: number[]; logit_difference: number[]; full_logit_difference?: number[]; empty_logit_difference?: number[]; effect?: number[] };
}

export interface Point { fraction: number; items: number; connected: number; faithfulness: Estimate | null; kl: Estimate | null }
export interface Areas { area: Estimate | null; distance: Estimate | null }
export interface Curve { order: Order; total: number; points: Point[]; means: Areas | null; undefined: string }
export interface Tested { p: number; [other: string]: unknown }
export interface Stability { over: "seeds" | "prompts"; method: string; runs: number; jaccard: Record<string, Estimate> }

export interface Full {
  curves: Curve[];
  outliers: { fence: number; count: number; prompts: { row: number; text: string; kl: number; full: number }[] };
  stability: Stability[];
  complement: { scores?: Scores; [other: string]: unknown };
}

export interface TokenRow {
  row: number;
  first: boolean;
  kl: number;
  clean: string[];
  corrupt: string[];
  at: number;
  answers: string[];
  wrong_answers: string[];
  gain: number;
  effects: Record<string, number[][]>; // by branch, layer and position
}

export interface Tokens { metric: string; steps: number; prompts: TokenRow[] }

export interface Budget {
  k: number;
  folder: string;
  nodes: string[];
  circuit: Estimate;
  attribution: Estimate;
  integrated: Estimate;
  random: Estimate[];
  everything: Estimate;
}

export interface SearchPoint { k: number; size: number; effect: Estimate; passes: number; seconds: number; nodes: string[] }

export interface Searches {
  split: string;
  pairs: number;
  seed: number;
  own: string;
  everything: Estimate;
  curves: Record<string, SearchPoint[]>;
}

export interface EdgeList {
  writers: string[];
  readers: string[];
  total: number;
  count: number;
  writer: Place;
  reader: Place;
  scores: Place;
  kept: Place;
}

export interface Origin {
  model: string;
  revision: string;
  family: string;
  dtype: string;
  task: string;
  task_options: Record<string, unknown>;
  method: string;
  settings: Record<string, unknown>;
  reference: string;
  seed: number;
  pairs: Record<string, number>;
  versions: Record<string, string>;
  seconds: number;
  result: Record<string, number>;
  shared: string;
}

export interface Run {
  folder: string;
  origin: Origin;
  layers: number;
  units: Record<string, number>;
  sizes: Record<string, Size>;
  grids: Record<string, { scores: Place; kept: Place }>;
  effects: boolean;
  lines: Record<string, string[]>;
  edges: EdgeList | null;
  traced: boolean;
  budgets: Budget[];
  searches: Searches | null;
  evidence: Evidence | null;
  verdict: string;
  reason: string;
  full: Full | null;
  tokens: Tokens | null;
  run: { device: string; started: string; seconds: number; status: string } | null;
  warnings: string[];
  commands: string[];
  files: Record<string, string>;
}

export interface Overlap {
  only_first: number;
  only_second: number;
  both: number;
  total: number;
  jaccard: Estimate | null;
  by_chance: number | null;
}

export interface Comparison {
  differences: { what: string; values: string[] }[];
  together: { first: string; second: string; kl_difference: Estimate | null; kinds: Record<string, Overlap> }[];
}

export interface Payload { runs: Run[]; comparison: Comparison | null; graph?: GraphPage; concepts?: ConceptPage } // these have pages of their own
export type Order = "score" | "magnitude";
export type Numbers = Float32Array | Uint8Array | Uint16Array | Uint32Array;
export type Reader = (place: Place) => Numbers;

const TYPES = { f4: Float32Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };

// Unpack the page's data block. Everything is local: no request is made.
export async function open(text: string): Promise<[Payload, Reader]> {
  const squeezed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([squeezed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const block = await new Response(stream).arrayBuffer();
  const length = new DataView(block).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(block, 4, length))) as Payload;
  const read: Reader = ({ dtype, shape, start }) =>
    new TYPES[dtype](block, 4 + length + start, shape.reduce((size, each) => size * each, 1));
  return [header, read];
}
