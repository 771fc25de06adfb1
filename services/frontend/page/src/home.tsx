// The home page: the transactions of the company's account.
import { COMPANY_IBAN } from "./bank";
import { Transactions, useShown } from "./transactions";

export function Home() {
  const live = useShown(COMPANY_IBAN);
  return (
    <>
      <p class="block">
        A simulated bank on Apache Kafka, written in Rust. This page shows the transactions of the
        company’s account <code>{COMPANY_IBAN}</code> live. As a{" "}
        <a href="/bank-employee">bank employee</a> you see all accounts. As a{" "}
        <a href="/client">client</a> you open your own.
      </p>
      <Transactions iban={COMPANY_IBAN} live={live} />
    </>
  );
}
