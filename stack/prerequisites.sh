# shellcheck shell=bash
# What must be on the machine.

prerequisites() {
  :
}
