/** A run of tokens as it is shown: units of text, with byte fragments merged and white space made visible. */
import type { TokenRun } from "../api";

export interface Unit {
  /** Index of the first token and how many tokens are merged here. */
  from: number;
  n: number;
  text: string;
  special: boolean;
}

/** Tokens whose text is "" belong to the one before: a character's bytes cut over several tokens. */
export function units(run: TokenRun): Unit[] {
  const special = new Set(run.special);
  const merged: Unit[] = [];
  run.tokens.forEach((text, i) => {
    const last = merged.at(-1);
    if (text === "" && last && !special.has(i)) last.n += 1;
    else merged.push({ from: i, n: 1, text, special: special.has(i) });
  });
  return merged;
}

/** The largest of a unit's token values. */
export function unitValue(unit: Unit, values: ArrayLike<number>): number {
  let best = values[unit.from] ?? 0;
  for (let i = 1; i < unit.n; i++) best = Math.max(best, values[unit.from + i] ?? 0);
  return best;
}

/** Sparse activations as one value per token. */
export function dense(n: number, activations: [number, number][]): Float64Array {
  const values = new Float64Array(n);
  for (const [at, value] of activations) values[at] = value;
  return values;
}

/** Shade 1–10 of a value on the scale 0..max; 0 for none. */
export function shade(value: number, max: number): number {
  if (!(value > 0) || !(max > 0)) return 0;
  return Math.min(10, Math.max(1, Math.ceil((10 * value) / max)));
}

export interface Piece {
  text: string;
  /** Stands for white space or a control character. */
  visible: boolean;
}

/** C1 controls, lone surrogates, bidirectional controls. */
const ACTING = /[\x80-\x9f\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/u;
/** Of no width; joiners stay, they shape their neighbours. */
const UNSEEN = /[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b\u2060-\u2065\u206a-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}\u{e0001}-\u{e007f}]/u;

/**
 * Characters that would not be seen, drawn as monosemy/support/visible.py does: ↵ for a new line, → for a tab, · for a space where `spaces` is set. Where it is
 * not, a run of spaces (an indentation) takes the width of two.
 */
export function pieces(text: string, spaces: boolean): Piece[] {
  const drawn: Piece[] = [];
  const add = (piece: string, visible: boolean) => {
    const last = drawn.at(-1);
    if (last && last.visible === visible) last.text += piece;
    else drawn.push({ text: piece, visible });
  };
  for (const character of spaces ? text : text.replace(/ {3,}/g, "  ")) {
    const code = character.codePointAt(0) ?? 0;
    if (character === "\n" || code === 0x2028 || code === 0x2029) add("↵", true);
    else if (character === "\t") add("→", true);
    else if (character === " " && spaces) add("·", true);
    else if (code === 0xa0) add(spaces ? "⍽" : " ", spaces);
    else if (code < 0x20) add(String.fromCodePoint(0x2400 + code), true);
    else if (code === 0x7f) add("␡", true);
    else if (ACTING.test(character)) add(`⟨U+${code.toString(16).toUpperCase().padStart(2, "0")}⟩`, true);
    else if (UNSEEN.test(character)) add("∅", true);
    else add(character, false);
  }
  return drawn;
}

/** For a sentence read aloud or a title: white space visible, in quotes. */
export const quoted = (text: string): string =>
  `“${pieces(text, true).map((piece) => piece.text).join("")}”`;
