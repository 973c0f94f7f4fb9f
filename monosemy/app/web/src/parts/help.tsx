import { useEffect, useRef } from "preact/hooks";

const KEYS: [string[], string][] = [
  [["/"], "search"],
  [["j", "k"], "next and previous latent, or row of a list"],
  [["↓", "↑"], "next and previous row, once a row is chosen"],
  [["→", "←"], "next and previous latent; inside a context, next and previous token"],
  [["Enter"], "open the row"],
  [["r"], "a latent at random"],
  [["b"], "bookmark the latent"],
  [["p"], "pin the node of a graph; there arrows go from node to node, Esc leaves it"],
  [["c"], "length of contexts: line, passage, whole"],
  [["w"], "white space visible or not"],
  [["g"], "overview"],
  [["l"], "list of latents"],
  [["?"], "this help"],
];

export function Help({ open, onClose }: { open: boolean; onClose: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    if (open) dialog.current?.showModal();
  }, [open]);
  const close = () => dialog.current?.close();
  return (
    <dialog ref={dialog} aria-labelledby="help-title" onClose={onClose} onClick={(event) => event.target === dialog.current && close()}>
      <h2 id="help-title">Keys</h2>
      <dl>
        {KEYS.map(([keys, words]) => (
          <>
            <dt>
              {keys.map((key) => (
                <>
                  <kbd>{key}</kbd>{" "}
                </>
              ))}
            </dt>
            <dd>{words}</dd>
          </>
        ))}
      </dl>
      <p class="small muted">
        The address of a page holds its whole view: copy it to come back to the same filters, brush, prompt or strength.
      </p>
      <p class="row end between">
        <span />
        <button type="button" class="primary" onClick={close}>
          Close
        </button>
      </p>
    </dialog>
  );
}
