import { COMPANY_IBAN } from "./bank";
import { Transactions, useShown } from "./transactions";

/** What the company's account does, live. */
export function Home() {
  const live = useShown(COMPANY_IBAN);
  return (
    <>
      <p class="block">
        A bank that runs on Kafka, in Rust. Below are the transactions of the company’s account{" "}
        <code>{COMPANY_IBAN}</code>, as they happen. A <a href="/bank-employee">bank employee</a>{" "}
        sees all accounts; a <a href="/client">client</a> opens one.
      </p>
      <Transactions iban={COMPANY_IBAN} live={live} />
    </>
  );
}
