package scratchbank;

import java.util.UUID;

/** Commands and their outcomes. */
final class Commands {
  private Commands() {}

  sealed interface Command permits Creation, Transfer {}

  /** Opens an account. `aType` is AUTO or MANUAL. */
  record Creation(UUID id, String aType) implements Command {}

  /** Moves `amount` euro cents. */
  record Transfer(UUID id, String token, long amount, String from, String to, String description)
      implements Command {}

  sealed interface Outcome permits Opened, NotOpened, Moved, Refused {}

  record Opened(UUID id, String iban, String token, String aType) implements Outcome {}

  record NotOpened(UUID id, String reason) implements Outcome {}

  /**
   * A completed transfer. A side without an account at this bank has no change (null). `decidedAt`
   * is in milliseconds since 1970, null in outcomes that are older than this field.
   */
  record Moved(
      UUID id,
      long amount,
      String from,
      String to,
      String description,
      Rules.Change fromChange,
      Rules.Change toChange,
      Long decidedAt)
      implements Outcome {}

  record Refused(UUID id, String reason) implements Outcome {}
}
