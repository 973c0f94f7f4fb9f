/** Words and controls that are explained where they stand: on hover, on focus and on a tap. */
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { ComponentChildren } from "preact";

/** One sentence each, as in docs/glossary.md. */
export const TERMS = {
  latent: "One unit of the dictionary: it is silent almost everywhere, and what the places where it fires have in common is what it stands for.",
  "label score": "How well the label alone tells, on text it was not made from, where the latent fires: 1 is always, 0.5 is chance (AUROC).",
  "firing rate": "The share of tokens, or of rows of one's own, on which the latent is above zero.",
  L0: "How many latents are active on a token, or row, on average.",
  FVU: "Fraction of variance unexplained: what part of the activations' variation the dictionary's reconstruction misses.",
  "delta loss": "How much worse the model predicts, in nats per token, when the reconstruction takes the activation's place.",
  "decoder cosine": "How alike the directions are that two latents write: 1 the same, 0 unrelated.",
  correlation: "Whether two latents are active on the same tokens, as strongly: 1 always, 0 no oftener than by chance.",
  SAE: "Sparse autoencoder: a dictionary that writes every activation as a sum of a few of its latents' directions.",
  transcoder: "A dictionary that reads the input of an MLP and writes its output, so that its latents can stand for what the MLP computes.",
  site: "The place in the model whose activations are read, such as the residual stream after layer 12.",
  control: "A dictionary that was not trained, measured beside the others: what chance and the data alone give.",
  perplexity: "How surprising a text is to the unsteered model; texts that repeat themselves can be low, broken ones are high.",
  KL: "How far the model's predictions are from those of the unsteered model, in nats per token.",
  "distinct pairs": "Share of distinct pairs of tokens; low means repetition.",
  unusual: "How rarely the latent is this strong: one in so many tokens of the text its features were built from.",
  replacement: "Which share of all influence on the answer begins in the prompt's tokens, and not in what the transcoders leave unexplained.",
  completeness: "Which share of what the nodes read comes from tokens and latents, and not from what the transcoders leave unexplained.",
  influence: "The share of the answer's inputs that comes from a node, directly or through others.",
  label: "A few words found by counting what is commoner where the latent fires than elsewhere, without a language model.",
} as const;
export type Word = keyof typeof TERMS;

/** A word of the glossary. */
export function Term({ word, children }: { word: Word; children?: ComponentChildren }) {
  return <Explained text={TERMS[word]}>{children ?? word}</Explained>;
}

/** Any words with a sentence that explains them; without one, the words alone. */
export function Explained({ text, children }: { text: string; children: ComponentChildren }) {
  if (!text) return <>{children}</>;
  return (
    <button type="button" class="term" {...explain(text)}>
      {children}
    </button>
  );
}

/** What a control carries to be explained beside what it does. */
export const explain = (text: string | undefined): { "data-explained"?: string } => (text ? { "data-explained": text } : {});

/** Controls are passed over on the way to others: their sentence waits this long, in milliseconds. */
const DELAY = 300;
const MARGIN = 16;
const ID = "explanation-of-word";
const explained = (target: EventTarget | null): HTMLElement | null => (target instanceof Element ? target.closest<HTMLElement>("[data-explained]") : null);

/** The one sentence that is shown: below its word, above it where there is no room, within the screen. */
export function ExplanationLayer() {
  const [word, setWord] = useState<HTMLElement | null>(null);
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    let timer = 0;
    const show = (next: HTMLElement | null) => {
      clearTimeout(timer);
      setWord(next);
    };
    // A finger's pointer never hovers: it taps.
    const over = (event: PointerEvent) => {
      if (event.pointerType !== "mouse" || box.current?.contains(event.target as Node)) return;
      const next = explained(event.target);
      clearTimeout(timer);
      if (!next || next.classList.contains("term")) setWord((old) => next ?? (old === document.activeElement && old?.matches(":focus-visible") ? old : null));
      else timer = window.setTimeout(() => setWord(next), DELAY);
    };
    const focus = (event: FocusEvent) => {
      const next = explained(event.target);
      if (next?.matches(":focus-visible")) show(next);
    };
    const click = (event: MouseEvent) => {
      const next = explained(event.target);
      if (next) show(next);
    };
    const leave = () => show(null);
    const away = (event: Event) => {
      if (!box.current?.contains(event.target as Node) && !explained(event.target)) show(null);
    };
    const key = (event: KeyboardEvent) => event.key === "Escape" && show(null);
    addEventListener("pointerover", over);
    addEventListener("focusin", focus);
    addEventListener("focusout", leave);
    addEventListener("click", click);
    addEventListener("pointerdown", away);
    addEventListener("keydown", key);
    return () => {
      clearTimeout(timer);
      removeEventListener("pointerover", over);
      removeEventListener("focusin", focus);
      removeEventListener("focusout", leave);
      removeEventListener("click", click);
      removeEventListener("pointerdown", away);
      removeEventListener("keydown", key);
    };
  }, []);
  useLayoutEffect(() => {
    if (!word || !box.current) return;
    const sentence = box.current;
    const place = () => {
      if (!word.isConnected) return setWord(null);
      const at = word.getClientRects()[0] ?? word.getBoundingClientRect();
      const { width, height } = sentence.getBoundingClientRect();
      const { clientWidth, clientHeight } = document.documentElement;
      sentence.style.left = `${Math.max(MARGIN, Math.min(at.left, clientWidth - MARGIN - width))}px`;
      sentence.style.top = `${at.bottom + height > clientHeight && at.top > height ? at.top - height : at.bottom}px`;
    };
    place();
    word.setAttribute("aria-describedby", ID);
    const watch = new MutationObserver(place); // the page may take the word away
    watch.observe(document.body, { childList: true, subtree: true });
    addEventListener("scroll", place, { capture: true, passive: true });
    addEventListener("resize", place);
    return () => {
      word.removeAttribute("aria-describedby");
      watch.disconnect();
      removeEventListener("scroll", place, { capture: true });
      removeEventListener("resize", place);
    };
  }, [word]);
  if (!word) return null;
  return (
    <div ref={box} role="tooltip" id={ID} class="term-text">
      {word.dataset.explained}
    </div>
  );
}
