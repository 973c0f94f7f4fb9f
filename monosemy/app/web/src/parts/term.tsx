/** A word of the glossary, explained where it stands: on hover, on focus and on a tap. */
import { useEffect, useId, useRef, useState } from "preact/hooks";
import type { ComponentChildren } from "preact";

/** One sentence each, as in docs/glossary.md. */
export const TERMS = {
  latent: "One unit of the dictionary: it is silent on most tokens, and what the tokens on which it fires have in common is what it stands for.",
  "label score": "How well the label alone tells, on text it was not made from, where the latent fires: 1 is always, 0.5 is chance (AUROC).",
  "firing rate": "The share of tokens on which the latent is above zero.",
  L0: "How many latents are active on a token, on average.",
  FVU: "Fraction of variance unexplained: what part of the activations' variation the dictionary's reconstruction misses.",
  "delta loss": "How much worse the model predicts, in nats per token, when the reconstruction takes the activation's place.",
  "decoder cosine": "How alike the directions are that two latents write: 1 the same, 0 unrelated.",
  SAE: "Sparse autoencoder: a dictionary that writes every activation as a sum of a few of its latents' directions.",
  site: "The place in the model whose activations are read, such as the residual stream after layer 12.",
  control: "A dictionary that was not trained, measured beside the others: what chance and the data alone give.",
  perplexity: "How surprising a text is to the unsteered model; texts that repeat themselves can be low, broken ones are high.",
  KL: "How far the model's predictions are from those of the unsteered model, in nats per token.",
  unusual: "How rarely the latent is this strong: one in so many tokens of the text its features were built from.",
} as const;
export type Word = keyof typeof TERMS;

/** A word of the glossary. */
export function Term({ word, children }: { word: Word; children?: ComponentChildren }) {
  return <Explained text={TERMS[word]}>{children ?? word}</Explained>;
}

const WIDEST = 320;

/** Any words with a sentence that explains them, which stays within the screen; without one, the words alone. */
export function Explained({ text, children }: { text: string; children: ComponentChildren }) {
  const [shift, setShift] = useState<number | null>(null);
  const id = useId();
  const root = useRef<HTMLSpanElement>(null);
  const show = () => {
    const left = root.current?.getBoundingClientRect().left ?? 0;
    const width = Math.min(WIDEST, document.documentElement.clientWidth - 32);
    setShift(Math.min(0, document.documentElement.clientWidth - 16 - width - left));
  };
  const hide = () => setShift(null);
  const open = shift !== null;
  useEffect(() => {
    if (!open) return;
    const close = (event: Event) => {
      if (event instanceof KeyboardEvent ? event.key === "Escape" : !root.current?.contains(event.target as Node)) hide();
    };
    addEventListener("keydown", close);
    addEventListener("pointerdown", close);
    return () => {
      removeEventListener("keydown", close);
      removeEventListener("pointerdown", close);
    };
  }, [open]);
  if (!text) return <>{children}</>;
  return (
    <span ref={root} class="term" onMouseEnter={show} onMouseLeave={hide}>
      <button type="button" aria-expanded={open} aria-describedby={open ? id : undefined} onFocus={show} onBlur={hide} onClick={show}>
        {children}
      </button>
      {open && (
        <span role="tooltip" id={id} class="term-text" style={{ left: `${shift}px` }}>
          {text}
        </span>
      )}
    </span>
  );
}
