// Numbers and names as people read them.
import type { Estimate, Run } from "./payload";

export const KINDS: Record<string, string> = {
  block: "blocks", attn: "attention branches", mlp: "MLPs", head: "heads", channel: "channels", neuron: "neurons",
  mlp_out: "MLP outputs", kv: "key/value groups", edge: "edges",
};

export const plural = (kind: string): string => KINDS[kind] ?? kind;
export const counted = (kind: string, count: number): string => (count === 1 ? plural(kind).replace(/(?<=ch)es$|s$/, "") : plural(kind));
export const whole = (value: number): string => value.toLocaleString("en");

export function number(value: number, digits = 2): string {
  const shown = Math.abs(value) >= 100 ? value.toFixed(0) : Math.abs(value) >= 0.095 || value === 0 ? value.toFixed(digits) : value.toPrecision(digits);
  return shown.replace("-", "−");
}

export function signed(value: number): string {
  return value > 0 ? `+${number(value, 3)}` : number(value, 3);
}

export function percent(share: number): string {
  const value = 100 * share;
  return `${value >= 99.95 || value === 0 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toPrecision(2)}%`;
}

export const interval = (each: Estimate): string => `${number(each.low)} – ${number(each.high)}`;

export function duration(seconds: number): string {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// A node as files spell it: branches have one unit and are written without it.
export function node(kind: string, layer: number, unit: number, units: number): string {
  return units === 1 ? `${layer}.${kind}` : `${layer}.${kind}.${unit}`;
}

export const label = ({ origin, traced }: Run): string => `${origin.task} · ${origin.method}${traced && origin.settings.search ? ` (${origin.settings.search})` : ""}`;
export const revision = (text: string): string => text.replace("sha256:", "").slice(0, 12);
