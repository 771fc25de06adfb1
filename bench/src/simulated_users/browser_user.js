async ({ name, password, company }) => {
  // Resolves when the page contains a matching element. The page itself reports later changes.
  const found = (what) => {
    return new Promise((resolve) => {
      const look = () => {
        const element = document.querySelector(what);
        if (element) resolve(element);
        else setTimeout(look, 20);
      };
      look();
    });
  };
  // Dispatches the events of typing, to which the page listens.
  const type = (input, text) => {
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(input, text);
    input.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const drawn = () => new Promise((resolve) => setTimeout(resolve));

  await found("#connection[data-state=connected]");
  const login = await found("#login-form input[name=password]").then((input) => input.form);
  type(login.elements.username, name);
  type(login.elements.password, password);
  await drawn();
  login.requestSubmit();
  await found("#iban");
  await found("#no-transactions");

  // Steps whose transaction is not shown yet. Their amounts differ from each other within a
  // timeout.
  const waiting = [];
  const seen = new Set();
  const look = () => {
    for (const box of document.querySelectorAll("#transactions > div")) {
      if (seen.has(box.id)) continue;
      seen.add(box.id);
      const amount = box.querySelector("p:nth-child(1) > span.icon + span").textContent;
      const cents = Number(amount.replace(/[^0-9-]/g, ""));
      const at = waiting.findIndex((step) => step.cents === cents);
      if (at >= 0) received(String(waiting.splice(at, 1)[0].number));
    }
  };
  // Passes on the message about a rejected transfer.
  const said = (changed) => {
    if (!changed.some((it) => it.target.closest?.("#said"))) return;
    const refusal = document.querySelector("#said .is-danger");
    if (refusal) received(refusal.textContent);
  };
  const changes = { subtree: true, childList: true, attributes: true, attributeFilter: ["id"] };
  new MutationObserver((changed) => {
    look();
    said(changed);
  }).observe(document.body, changes);

  // One transfer at a time: the button is disabled until the bank has answered.
  let last = Promise.resolve();
  const transfer = async (cents) => {
    await found("#transfer-form button[aria-disabled=false]");
    const form = document.querySelector("#transfer-form");
    type(form.elements.amount, String(cents));
    type(form.elements.to, company);
    type(form.elements.descr, "a step of the test");
    await drawn();
    form.requestSubmit();
    await drawn();
  };
  globalThis.bench = (number, cents) => {
    waiting.push({ number, cents });
    // Removes steps that have timed out.
    while (waiting.length > 9) waiting.shift();
    if (cents > 0) document.querySelector(`#deposit-${cents}`).click();
    else last = last.then(() => transfer(-cents)).catch((err) => received(String(err)));
  };
}
