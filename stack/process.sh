# shellcheck shell=bash
# Processes: started in sessions of their own, known by pid file, never mistaken for another. A pid file holds the pid and
# the process's time of birth, since the system gives pids out again.

# birth PID: when it began, in clock ticks since boot; fails if it is dead, also if nobody has taken its exit code yet. One
# whose first thread alone is dead still holds its ports.
birth() {
  local stat
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
  # Counted from behind the command's name, which may hold anything.
  read -r -a stat <<<"${stat##*) }"
  [[ ${stat[0]} != [ZX] ]] || ((stat[17] > 1)) || return 1
  echo "${stat[19]}"
}

# record NAME PID
record() (
  # Ctrl-C reaches every process of this shell's group, mv too.
  trap '' INT TERM
  # In one step: a reader never sees half a file.
  echo "$2 $(birth "$2" || echo dead)" >"$run_dir/$1.pid.new"
  mv "$run_dir/$1.pid.new" "$run_dir/$1.pid"
)

# pid_of NAME: prints the pid; fails if it isn't running.
pid_of() {
  local pid born
  { read -r pid born <"$run_dir/$1.pid"; } 2>/dev/null || return 1
  [[ $(birth "$pid") == "$born" ]] || return 1
  echo "$pid"
}

is_running() {
  pid_of "$1" >/dev/null
}

# shellcheck disable=SC2154 # set in config.sh; supervise.sh does not come here
log_file() {
  echo "$log_dir/$1.log"
}

# launch NAME COMMAND...: starts it apart from this shell and its terminal.
launch() {
  # A process without a pid file would be nobody's.
  uninterrupted launch_recorded "$@"
}

launch_recorded() {
  local name=$1 log
  log=$(log_file "${1%.supervisor}")
  shift
  # Background jobs without job control lead no group, so setsid becomes COMMAND and $! is its pid.
  setsid "$@" >>"$log" 2>&1 </dev/null 9>&- &
  record "$name" $!
}

# rotate_log PART: keeps a log from growing for ever.
rotate_log() {
  local log
  log=$(log_file "$1")
  if [[ -f $log && $(stat -c %s "$log") -gt $((10 << 20)) ]]; then
    mv "$log" "$log.old"
  fi
}

# family PID: it and its children, which only PostgreSQL has.
family() {
  local children=
  { children=$(<"/proc/$1/task/$1/children"); } 2>/dev/null || true
  echo "$1 $children"
}

# wait_gone NAME SECONDS
wait_gone() {
  local since
  since=$(now_ms)
  while is_running "$1"; do
    (($(now_ms) - since < $2 * 1000)) || return 1
    progress "stopping $1" "$since"
    sleep 0.05
  done
}

# port_owner PORT: prints who listens there, as in "pid 12 (java -Xmx ...)"; fails if nobody does.
port_owner() {
  local hex inode pid
  hex=$(printf '%04X' "$1")
  # tcp6 is missing where IPv6 is off.
  inode=$(awk -v port=":$hex" '$4 == "0A" && substr($2, length($2) - 4) == port { inode = $10 } END { print inode }' \
    <(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null))
  [[ -n $inode ]] || return 1
  # Fails on processes of other users, and on those that end meanwhile.
  pid=$(find /proc/[0-9]*/fd -lname "socket:\[$inode\]" 2>/dev/null | cut -d/ -f3 | sort -nu) || true
  pid=${pid%%$'\n'*}
  if [[ -n $pid ]]; then
    echo "pid $pid ($(tr '\0' ' ' <"/proc/$pid/cmdline" | cut -c-120))"
  else
    echo "a process of another user"
  fi
}

# http_ok PORT PATH: true if GET answers 200 within 2 s.
http_ok() (
  exec 2>/dev/null 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
  printf 'GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n' "$2" "$1" >&3
  read -r -t 2 _ status _ <&3 && [[ $status == 200 ]]
)
