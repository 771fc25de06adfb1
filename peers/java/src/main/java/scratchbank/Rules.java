package scratchbank;

import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.Map;

/** The rules of the bank, without Kafka, SQL, clock or randomness. */
final class Rules {
  static final long OVERDRAFT_LIMIT = -50_000;
  static final String IBAN_EXISTS = "generated iban already exists, try again";

  /** The state of an account while a batch is decided. Amounts are euro cents. */
  static final class Account {
    final String token;
    final long limit;
    long balance;
    long sequence;

    Account(String token, long balance, long limit, long sequence) {
      this.token = token;
      this.balance = balance;
      this.limit = limit;
      this.sequence = sequence;
    }

    private Change change(long newBalance) {
      balance = newBalance;
      sequence++;
      return new Change(balance, sequence);
    }
  }

  /** The state of an account after a transfer. */
  record Change(long balance, long sequence) {}

  /** A reason or the changes. A side without an account at this bank has no change (null). */
  record Decision(String reason, Change from, Change to) {
    static Decision refused(String reason) {
      return new Decision(reason, null, null);
    }
  }

  private Rules() {}

  /** Decides a transfer and changes the accounts. A refusal has the first reason that applies. */
  static Decision transfer(Commands.Transfer order, Map<String, Account> accounts) {
    if (order.amount() <= 0) {
      return Decision.refused("amount must be positive");
    }
    boolean cash = order.from().equals(Iban.CASH);
    if (!cash && !Iban.isWellFormed(order.from())) {
      return Decision.refused("from is invalid");
    }
    if (order.from().equals(order.to())) {
      return Decision.refused("from and to can't be same for transfer");
    }
    Account from = accounts.get(order.from());
    Account to = accounts.get(order.to());
    if (from == null && to == null) {
      return Decision.refused("both to and from not known at this bank");
    }
    if (from == null && !cash) {
      return Decision.refused("from is not known at this bank");
    }
    long debited = 0;
    if (from != null) {
      if (!sameSecret(from.token, order.token())) {
        return Decision.refused("invalid token");
      }
      // The amount is positive: a difference that wraps is larger than the balance.
      debited = from.balance - order.amount();
      if (debited > from.balance || debited < from.limit) {
        return Decision.refused("insufficient funds");
      }
    }
    long credited = 0;
    if (to != null) {
      credited = to.balance + order.amount();
      if (credited < to.balance) {
        return Decision.refused("amount too large");
      }
    }
    return new Decision(
        null, from == null ? null : from.change(debited), to == null ? null : to.change(credited));
  }

  private static boolean sameSecret(String ours, String theirs) {
    return MessageDigest.isEqual(
        ours.getBytes(StandardCharsets.UTF_8), theirs.getBytes(StandardCharsets.UTF_8));
  }
}
