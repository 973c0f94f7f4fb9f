/** Which latents fire in a text: token by token, the most unusual first, by role in a chat, and as a file. */
import { useState } from "preact/hooks";
import type { SaeEntry, TextResult } from "../api";
import { count, num, oneIn } from "../format";
import { to } from "../router";
import { Choice, Named, Pager } from "./bits";
import { Save } from "./save";
import { Explained, Term } from "./term";
import { quoted, shade } from "./tokens";

type Body = { text: string; chat: boolean };
type Firings = TextResult["top"][number];

/** Tokens that are shown at a time. */
const TOKENS = 1000;
/** Decades of "one in so many tokens" between no shade and the darkest: some latent is always as rare as one in ten. */
const COMMON = 1;
const DECADES = 4;

/** Shades go by how unusual a firing is for its latent where that is known, else by its activation. */
function darkness(firing: Firings[number] | undefined, max: number): number {
  if (!firing) return 0;
  return firing.one_in === null ? shade(Math.min(firing.value, max), max) : shade(Math.min(DECADES, Math.max(0, Math.log10(firing.one_in) - COMMON)), DECADES);
}
const rarest = (firings: Firings): Firings[number] | undefined => firings.reduce<Firings[number] | undefined>((best, firing) => (!best || (firing.one_in ?? firing.value) > (best.one_in ?? best.value) ? firing : best), undefined);

export function Firing({ result, sae, body }: { result: TextResult; sae: SaeEntry; body: Body }) {
  const [at, setAt] = useState<number | null>(null);
  const [latent, setLatent] = useState<number | null>(null);
  const [role, setRole] = useState("");
  const [offset, setOffset] = useState(0);
  const special = new Set(result.special);
  const max = Math.max(1e-9, ...result.top.flatMap((firings, i) => (special.has(i) ? [] : firings.map((firing) => firing.value))));
  const roles = [...new Set(result.roles)].filter(Boolean);
  const token = (i: number) => {
    const firings = result.top[i] ?? [];
    const firing = latent === null ? rarest(firings) : firings.find((firing) => firing.latent === latent);
    const first = rarest(firings);
    const about = first ? `, the most unusual: ${first.latent} ${first.label} (${oneIn(first.one_in) || num(first.value)})` : "";
    return (
      <button
        type="button"
        key={i}
        class={`tokbutton u a${darkness(firing, max)}${role && result.roles[i] !== role ? " faint" : ""}`}
        aria-pressed={at === i}
        title={`${count(result.l0[i])} latents fire${about}`}
        onClick={() => setAt(at === i ? null : i)}
      >
        <span class="tok">{quoted(result.tokens[i] ?? "").slice(1, -1)}</span>
      </button>
    );
  };
  const positions = result.tokens.map((_, i) => i).slice(offset, offset + TOKENS).filter((i) => result.tokens[i] !== "" || i === 0);
  return (
    <div class="stack">
      {roles.length > 0 && (
        <Choice name="Whose messages" value={role} options={[{ value: "", text: "All" }, ...roles.map((name) => ({ value: name, text: name }))]} onPick={setRole} />
      )}
      <div class="tokens" role="group" aria-label="Tokens: choose one for its latents">{positions.map(token)}</div>
      <Pager total={result.tokens.length} offset={offset} limit={TOKENS} onMove={setOffset} />
      <p class="small muted">
        {at === null ? (
          <>The most <Term word="unusual">unusual</Term> latents over the whole text first; choose a token above for its own.</>
        ) : (
          `Latents at ${quoted(result.tokens[at] ?? "")}, strongest first; ${count(result.l0[at])} fire there.`
        )}
        {result.n_windows > 1 && ` Read in ${count(result.n_windows)} windows that overlap.`}
        {result.n_dropped > 0 && ` The last ${count(result.n_dropped)} tokens were left out.`}
      </p>
      <Save name="the evidence" sae={sae} body={body} />
      <Table result={result} sae={sae} at={at} role={role} onPoint={setLatent} />
    </div>
  );
}

function Table({ result, sae, at, role, onPoint }: { result: TextResult; sae: SaeEntry; at: number | null; role: string; onPoint: (latent: number | null) => void }) {
  const rare = result.summary.some((row) => row.one_in !== null);
  const rows = at === null ? result.summary.filter((row) => !role || result.roles[row.peak] === role) : (result.top[at] ?? []);
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Latents of your text, table">
      <table>
        <thead>
          <tr>
            <th scope="col"><Term word="latent">Latent</Term></th>
            {rare && <th scope="col" class="n"><Explained text="On how many tokens of the features' text the latent is at least this strong">As strong on</Explained></th>}
            <th scope="col" class="n">Activation</th>
            {at === null && <th scope="col">Strongest at</th>}
            {at === null && <th scope="col" class="n">Tokens</th>}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={row.latent} onMouseEnter={() => onPoint(row.latent)} onMouseLeave={() => onPoint(null)} onFocusCapture={() => onPoint(row.latent)} onBlurCapture={() => onPoint(null)}>
              <td class="w">
                <a data-row href={to.latent(sae.site, sae.name, row.latent)}>
                  <Named latent={row.latent} label={row.label} />
                </a>
              </td>
              {rare && <td class="n">{oneIn(row.one_in)}</td>}
              <td class="n">{num(row.value)}</td>
              {at === null && "peak" in row && <Peak result={result} row={row as TextResult["summary"][number]} />}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Peak({ result, row }: { result: TextResult; row: TextResult["summary"][number] }) {
  const role = result.roles[row.peak];
  return (
    <>
      <td class="nowrap">
        <span class="tok">{quoted(result.tokens[row.peak] ?? "")}</span>
        {role && <span class="muted"> {role}</span>}
      </td>
      <td class="n">{row.n_tokens}</td>
    </>
  );
}
