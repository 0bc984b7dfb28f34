#!lua
-- uses: prelude
-- see_person: make a person on first sight, once, if the key that names them has not made too many in this minute.
-- KEYS  person, index of persons, count of the key's minute
-- ARGV  1 record, 2 name in the index, 3 most a minute, 4 life of the count ms
-- reply {'made' | 'known', fields and values...} | {'too_many'}

local before = call('HGETALL', KEYS[1])
if #before > 0 then return {'known', unpack(before)} end
local most, life = int(ARGV[3], 'most'), int(ARGV[4], 'life')
local made = stored(call('GET', KEYS[3]), 'count')
call('ZSCORE', KEYS[2], ARGV[2])
if made >= most then return {'too_many'} end
call('INCR', KEYS[3])
call('PEXPIRE', KEYS[3], digits(life))
call('HSET', KEYS[1], 'record', ARGV[1])
call('ZADD', KEYS[2], '0', ARGV[2])
return {'made', 'record', ARGV[1]}
