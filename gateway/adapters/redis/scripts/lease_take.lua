#!lua flags=allow-oom
-- uses:
-- lease_take: take a lease, or keep one that is one's own.
-- KEYS  the lease
-- ARGV  1 its holder, 2 lifetime ms
-- reply 1 where it is now one's own, 0 where another holds it

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
