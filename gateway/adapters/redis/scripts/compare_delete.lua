#!lua
-- uses:
-- compare_delete: give up a lock that is still one's own.
-- KEYS  the lock
-- ARGV  1 its holder
-- reply 1 where it was, else 0

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
