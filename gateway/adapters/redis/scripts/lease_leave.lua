#!lua flags=allow-oom
-- uses:
-- lease_leave: give up a lease that is still one's own.
-- KEYS  the lease
-- ARGV  1 its holder
-- reply 1 where it was one's own, else 0

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
