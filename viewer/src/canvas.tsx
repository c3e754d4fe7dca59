// A canvas as wide as its column and sharp on any screen, and what charts share: colours, widths, where the pointer is.
import type { ComponentChildren, JSX } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { dark } from "./state";

export interface Colours { ink: string; soft: string; line: string; pruned: string; paper: string; cool: string; warm: string }
type RGB = [number, number, number];

// Blue against orange, told apart with every common kind of colour blindness, through the colour of the paper.
const SCALES: Record<"light" | "dark", RGB[]> = {
  light: [[11, 72, 130], [58, 130, 184], [150, 193, 222], [242, 241, 236], [246, 186, 118], [217, 119, 28], [146, 66, 3]],
  dark: [[138, 200, 255], [74, 151, 214], [43, 88, 128], [44, 47, 52], [124, 78, 32], [222, 137, 52], [255, 196, 124]],
};

// `value` from -1 to 1.
export function diverging(value: number, night: boolean): string {
  const scale = SCALES[night ? "dark" : "light"];
  const at = ((Math.max(-1, Math.min(1, value)) + 1) / 2) * (scale.length - 1);
  const low = Math.min(scale.length - 2, Math.floor(at));
  const mixed = scale[low].map((part, index) => Math.round(part + (scale[low + 1][index] - part) * (at - low)));
  return `rgb(${mixed.join(" ")})`;
}

// Small scores stay visible: the square root spreads them, the sign stays.
export const spread = (value: number, largest: number): number =>
  largest > 0 ? Math.sign(value) * Math.sqrt(Math.min(1, Math.abs(value) / largest)) : 0;

export function largest(values: Float32Array): number {
  let most = 0;
  for (const value of values) most = Math.max(most, Math.abs(value));
  return most;
}

export function colours(element: Element): Colours {
  const style = getComputedStyle(element);
  const of = (name: string): string => style.getPropertyValue(`--${name}`).trim();
  return { ink: of("ink"), soft: of("soft"), line: of("line"), pruned: of("pruned"), paper: of("paper"), cool: of("cool"), warm: of("warm") };
}

export function useWidth<T extends HTMLElement>(): [{ current: T | null }, number] {
  const box = useRef<T>(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const measure = (): void => setWidth(Math.floor(box.current!.clientWidth));
    measure();
    const watch = new ResizeObserver(measure);
    watch.observe(box.current!);
    return () => watch.disconnect();
  }, []);
  return [box, width];
}

export type Draw = (pen: CanvasRenderingContext2D, width: number, colours: Colours) => void;

interface Props extends Omit<JSX.IntrinsicElements["canvas"], "height" | "label" | "ref" | "children"> {
  label: string;
  height: (width: number) => number;
  paint: Draw;
  onPlace?: (x: number, y: number, event: PointerEvent) => void;
  children?: ComponentChildren;
}

export function Canvas({ label, height, paint, onPlace, children, ...rest }: Props) {
  const [box, width] = useWidth<HTMLDivElement>();
  const canvas = useRef<HTMLCanvasElement>(null);
  const tall = width ? height(width) : 0;
  void dark.value; // colours are read from the style sheet, so a change of theme must draw again
  useEffect(() => {
    const element = canvas.current!;
    const density = devicePixelRatio || 1;
    element.width = width * density;
    element.height = tall * density;
    const pen = element.getContext("2d")!;
    pen.scale(density, density);
    if (width) paint(pen, width, colours(element));
  });
  const placed = (event: PointerEvent): void => {
    const corner = canvas.current!.getBoundingClientRect();
    onPlace?.(event.clientX - corner.left, event.clientY - corner.top, event);
  };
  return (
    <div class="chart" ref={box}>
      <canvas ref={canvas} style={{ width: `${width}px`, height: `${tall}px` }} tabIndex={0} role="img" aria-label={label}
        onPointerMove={placed} onPointerDown={placed} {...rest} />
      {children}
    </div>
  );
}
