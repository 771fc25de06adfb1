// Forms: a form, its fields and its button.
import type { ComponentChildren, TargetedEvent, TargetedKeyboardEvent } from "preact";
import { useRef } from "preact/hooks";

/** A form. Enter moves the focus to the first empty field; if none is empty, it submits. */
export function Form(props: {
  id: string;
  waiting: boolean;
  submit: (form: HTMLFormElement) => void;
  children: ComponentChildren;
}) {
  const form = useRef<HTMLFormElement>(null);
  const submit = (event: TargetedEvent<HTMLFormElement, Event>): void => {
    event.preventDefault();
    if (!props.waiting && form.current?.reportValidity()) props.submit(form.current);
  };
  const enter = (event: TargetedKeyboardEvent<HTMLFormElement>): void => {
    if (event.key !== "Enter" || !(event.target instanceof HTMLInputElement)) return;
    const empty = [...event.currentTarget.querySelectorAll("input")].find(
      (input) => input.value === "",
    );
    if (!empty) return;
    event.preventDefault();
    empty.focus();
  };
  return (
    <form id={props.id} class="block" ref={form} onSubmit={submit} onKeyDown={enter} noValidate>
      {props.children}
    </form>
  );
}

interface FieldProps {
  label: string;
  /** A text below the input that screen readers announce when it changes. */
  hint?: { id: string; text: string };
  children: ComponentChildren;
}

// The n-th `div` child of a form contains the n-th input and no other: the talk's browser test
// depends on it. So the label encloses the input, and the hint is not a `div`.
export function Field({ label, hint, children }: FieldProps) {
  return (
    <div class="field">
      <div class="control">
        <label>
          <span class="label">{label}</span>
          {children}
        </label>
        {hint && (
          <p class="help" id={hint.id} aria-live="polite">
            {hint.text}
          </p>
        )}
      </div>
    </div>
  );
}

// The talk's browser test clicks on an `a` in the form. Without `href` it is plain text.
export function Submit({ waiting, children }: { waiting: boolean; children: string }) {
  return (
    <div class="field">
      <div class="control">
        <button type="submit" class="button is-link is-fullwidth" aria-disabled={waiting}>
          <a>{waiting ? "Waiting for the bank…" : children}</a>
        </button>
      </div>
    </div>
  );
}

export function texts(form: HTMLFormElement, ...names: string[]): string[] {
  const data = new FormData(form);
  return names.map((name) => String(data.get(name) ?? ""));
}
