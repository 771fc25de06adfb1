package scratchbank;

import java.util.UUID;

/** What is asked, and what was decided. */
final class Commands {
  private Commands() {}

  sealed interface Command permits Creation, Transfer {}

  /** Opens an account; who asks is AUTO or MANUAL. */
  record Creation(UUID id, String aType) implements Command {}

  /** Moves money, euro cents. */
  record Transfer(UUID id, String token, long amount, String from, String to, String description)
      implements Command {}

  sealed interface Outcome permits Opened, NotOpened, Moved, Refused {}

  record Opened(UUID id, String iban, String token, String aType) implements Outcome {}

  record NotOpened(UUID id, String reason) implements Outcome {}

  /** A side that is not of this bank has no change. */
  record Moved(
      UUID id,
      long amount,
      String from,
      String to,
      String description,
      Rules.Change fromChange,
      Rules.Change toChange)
      implements Outcome {}

  record Refused(UUID id, String reason) implements Outcome {}
}
