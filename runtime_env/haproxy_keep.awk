# Keep an app's replicas in HAProxy's configuration while Serve builds the app anew.
#
# For those seconds Ray Serve 2.60 tells HAProxy that the app has no replica, though all of them run and answer
# (`get_target_groups`: an app that is being built has no ingress deployment). So a backend that has lost all of its replicas
# keeps the last ones, on trial: a first failed connection or check takes one out. An address that another backend has now is
# not kept, as its port was given away.
#
# awk -v memory=FILE -f haproxy_keep.awk CONFIG CONFIG: reads it twice, prints it, and notes in FILE what each backend has.
BEGIN {
  while ((getline line < memory) > 0) {
    tab = index(line, "\t")
    last[substr(line, 1, tab - 1)] = last[substr(line, 1, tab - 1)] substr(line, tab + 1) "\n"
  }
  close(memory)
}
/^[a-z]/ { backend = ($1 == "backend") ? $2 : "" }
NR == FNR {
  if (backend != "" && $1 == "server" && $2 ~ /^SERVE_REPLICA_/) {
    now[backend] = now[backend] $0 "\n"
    taken[$3] = 1
  }
  next
}
FNR == 1 { printf "" > memory }
$1 == "backend" {
  kept = (backend in now) ? now[backend] : last[backend]
  count = split(kept, lines, "\n")
  for (i = 1; i < count; i++) print backend "\t" lines[i] > memory
}
backend != "" && $1 == "server" && $2 ~ /^SERVE_PROXY_ACTOR-fallback/ && !(backend in now) {
  for (i = 1; i < count; i++) {
    split(lines[i], word, " ")
    if (!(word[3] in taken))
      printf "    server %s %s check inter 250ms fall 1 rise 1 observe layer4 error-limit 1 on-error mark-down\n", word[2], word[3]
  }
}
{ print }
