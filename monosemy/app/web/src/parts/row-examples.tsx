/** Examples of a run on rows of the user's own: the text or picture of each row, with the latent's activation. */
import { api } from "../api";
import type { Example, SaeEntry } from "../api";
import { count, num } from "../format";
import { useShared } from "../state";
import { shade } from "./tokens";

export function RowExample({ example, max, sae }: { example: Example; max: number; sae: SaeEntry }) {
  const { run } = useShared();
  const silent = example.value === 0;
  const text = example.tokens[0] ?? "";
  const name = `Row ${count(example.row)}`;
  const title = text && run.row_texts ? `${name}: ${text}` : name;
  return (
    <li>
      <span class={`strength-mark a${shade(example.value, max)}`} title={silent ? "silent" : `activation ${num(example.value)}`}>
        {silent ? "0" : num(example.value)}
      </span>
      {example.picture && <img class="picture" loading="lazy" src={api.picture(sae.site, sae.name, example.context)} alt={title} />}
      <span class="of-row">
        {run.row_texts && <span class="row-text">{text || <span class="muted">no text</span>}</span>}
        <span class="muted small">{name}</span>
      </span>
    </li>
  );
}
