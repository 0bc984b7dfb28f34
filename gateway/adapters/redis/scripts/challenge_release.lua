#!lua
-- uses:
-- challenge_release: a challenge is paid or was never made; its place is free.
-- KEYS  open of the address, open of the network, open in all (sorted sets), the place
-- ARGV  1 nonce
-- reply 1 where it was open, else 0

redis.call('GET', KEYS[4])
for i = 1, 3 do redis.call('ZSCORE', KEYS[i], ARGV[1]) end
local was_open = redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('DEL', KEYS[4])
return was_open
