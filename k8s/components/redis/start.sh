#!/bin/sh
# Starts Redis for rap, in Kubernetes and in Compose. The password is in REDIS_PASSWORD, and may have any
# characters: Redis gets only its hash. Arguments are further options of redis-server.
#
# The only user is `rap`, which may do what rap does and nothing else: no other keys, no configuration, no
# replication, no FLUSHALL. docs/discovery.md has the same list, and the tests of the registries, nonces and
# limits run against a server that was started by this script.
#
# No persistence: instances send leases and counters again after a restart. `exec` without a pipe makes
# redis-server process 1 of the container, so that it gets SIGTERM.
set -eu
: "${REDIS_PASSWORD:?set REDIS_PASSWORD}"
hash=$(printf %s "$REDIS_PASSWORD" | sha256sum)
exec redis-server - "$@" <<END
bind * -::*
save ""
appendonly no
maxmemory 64mb
maxmemory-policy noeviction
user default off
user rap on #${hash%% *} ~rap:* resetchannels &rap:* +ping +select +subscribe +unsubscribe +eval +evalsha +time +hget +hmget +hgetall +hkeys +hlen +hset +hdel +zscore +zcard +zcount +zrange +zrangebyscore +zadd +zrem +xrange +xrevrange +xadd +sadd +smembers +del +expire +publish +get +set +type +pttl +pexpire
END
