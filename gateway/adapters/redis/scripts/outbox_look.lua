#!lua flags=no-writes
-- uses: prelude
-- outbox_look: what of a partition is to be told: fresh events, and the organizations that may be told by now.
-- KEYS  outbox, due
-- ARGV  1 most events, 2 now ms
-- reply {events as XRANGE gives them, organizations}

local most, now = int(ARGV[1], 'most'), int(ARGV[2], 'now')
return {call('XRANGE', KEYS[1], '-', '+', 'COUNT', digits(most)), call('ZRANGEBYSCORE', KEYS[2], '-inf', digits(now))}
