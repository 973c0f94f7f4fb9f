import { pieces } from "./tokens";

/** Text of one token with its invisible characters drawn. */
export function Shown({ text, spaces }: { text: string; spaces: boolean }) {
  return (
    <>
      {pieces(text, spaces).map((piece) => (piece.visible ? <span class="ws">{piece.text}</span> : piece.text))}
    </>
  );
}

/** A single token out of its context: in the fixed-width face, all white space visible. */
export function Token({ text }: { text: string }) {
  return (
    <span class="tok">
      <Shown text={text} spaces />
    </span>
  );
}
