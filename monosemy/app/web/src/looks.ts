/** Names and looks of architectures. The server's answer on the run holds them all: none is known here. */
import type { RunInfo, SeriesStyle } from "./api";

let styles: Record<string, SeriesStyle> = {};

/** Takes the looks of a run's architectures; every page draws with them from then on. */
export function withLooks(run: RunInfo): RunInfo {
  styles = run.styles;
  return run;
}

export const architecture = (name: string): string => styles[name]?.label ?? name.replaceAll("_", " ");

/** Colours for the class "series", which takes the one of the scheme at hand. */
export function colours(name: string): Record<string, string> {
  const style = styles[name];
  return style ? { "--light": style.light, "--dark": style.dark } : {};
}

/** Lengths of dashes and gaps in line widths, as SVG takes them in pixels; undefined: a solid line. */
export const dashes = (name: string): string | undefined =>
  styles[name]?.dashes.map((length) => (length * 1.3).toFixed(1)).join(" ") || undefined;

/** Markers by matplotlib's letters, about 10 pixels wide around the origin. */
const SHAPES: Record<string, string> = {
  v: "M-5,-4H5L0,5Z",
  "^": "M-5,4H5L0,-5Z",
  "<": "M4,-5V5L-5,0Z",
  ">": "M-4,-5V5L5,0Z",
  o: "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0Z",
  s: "M-4,-4H4V4H-4Z",
  D: "M0,-5.5L5.5,0L0,5.5L-5.5,0Z",
  P: "M-1.8,-5H1.8V-1.8H5V1.8H1.8V5H-1.8V1.8H-5V-1.8H-1.8Z",
  X: "M-2.5,-5L0,-2.5L2.5,-5L5,-2.5L2.5,0L5,2.5L2.5,5L0,2.5L-2.5,5L-5,2.5L-2.5,0L-5,-2.5Z",
  h: "M0,-5L4.3,-2.5V2.5L0,5L-4.3,2.5V-2.5Z",
  p: "M0,-5L4.8,-1.5L2.9,4H-2.9L-4.8,-1.5Z",
  "*": "M0,-6L1.6,-1.8H6L2.4,0.8L3.7,5L0,2.4L-3.7,5L-2.4,0.8L-6,-1.8H-1.6Z",
};
export const shape = (name: string): string | undefined => SHAPES[styles[name]?.marker ?? "P"];

/** Architectures in the order of every figure, which is that of the server's answer. */
export const inOrder = (names: string[]): string[] => {
  const place = Object.keys(styles);
  return [...new Set(names)].sort((a, b) => place.indexOf(a) - place.indexOf(b));
};
