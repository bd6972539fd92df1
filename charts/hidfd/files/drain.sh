# Until no work of Ray runs here, or $1 seconds have passed. Ray names its processes: `ray::IDLE` waits for work, and the
# agents are always there.
while [ "$SECONDS" -lt "$1" ] && cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n' | grep '^ray::' |
  grep -qvE '^ray::(IDLE|DashboardAgent|RuntimeEnvAgent)'; do
  sleep 1
done
