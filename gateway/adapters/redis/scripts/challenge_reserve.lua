#!lua
-- uses:
-- challenge_reserve: count a challenge before its invoice is asked for, or say which limit has no room.
-- KEYS  rate of the network (hash), open of the address, open of the network, open in all, networks (sorted sets), the place
-- ARGV  1 nonce, 2 what the place keeps, 3 network, 4 life ms,
--       then limits, 0 lifts one: 5 a minute per network, 6 per address, 7 per network, 8 in all
-- reply {'ok'} | {'address' | 'rate' | 'prefix' | 'all', retry after ms}

local function int(value, name)
  if value and #value <= 15 and (value == '0' or string.find(value, '^[1-9]%d*$')) then return tonumber(value) end
  error({err = 'ERR farebox: not an integer of at most 15 digits: ' .. name})
end

local nonce, kept, network = ARGV[1], ARGV[2], ARGV[3]
local life, per_minute, per_address = int(ARGV[4], 'life'), int(ARGV[5], 'per minute'), int(ARGV[6], 'per address')
local per_network, in_all = int(ARGV[7], 'per network'), int(ARGV[8], 'in all')
if life == 0 then error({err = 'ERR farebox: a life of no time'}) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = string.format('%.0f', now + life)

local function open_in(key)
  return redis.call('ZCOUNT', key, string.format('(%.0f', now), '+inf')
end

local function until_first(key)
  local first = redis.call('ZRANGEBYSCORE', key, string.format('(%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  return first[2] and math.max(tonumber(first[2]) - now, 1) or 1000
end

-- Every key is read before the first write, so that one of a wrong type ends the script with nothing changed.
local bucket = redis.call('HMGET', KEYS[1], 'level', 'at')
local at_address, mine, open, networks = open_in(KEYS[2]), open_in(KEYS[3]), open_in(KEYS[4]), open_in(KEYS[5])
redis.call('GET', KEYS[6])
if per_address > 0 and at_address >= per_address then return {'address', until_first(KEYS[2])} end

-- A bucket in sixty-thousandths of a challenge, so that every millisecond adds a whole number of them.
local level, full = 0, per_minute * 60000
if per_minute > 0 then
  level = full
  if bucket[1] then level = math.min(full, tonumber(bucket[1]) + math.max(now - tonumber(bucket[2]), 0) * per_minute) end
  if level < 60000 then return {'rate', math.ceil((60000 - level) / per_minute)} end
end

if per_network > 0 and mine >= per_network then return {'prefix', until_first(KEYS[3])} end
-- Full: whoever holds less than an even share still gets in, up to twice the cap, so that the busiest are shed first.
if in_all > 0 and open >= in_all then
  local share = math.max(math.floor(in_all / math.max(networks, 1)), 1)
  if mine >= share or open >= 2 * in_all then return {'all', until_first(KEYS[4])} end
end

if per_minute > 0 then
  redis.call('HSET', KEYS[1], 'level', string.format('%.0f', level - 60000), 'at', string.format('%.0f', now))
  redis.call('PEXPIRE', KEYS[1], 60000)
end
local function add(key, member)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now))
  redis.call('ZADD', key, 'GT', ends, member)
  redis.call('PEXPIRE', key, string.format('%.0f', life))
end

if per_address > 0 then add(KEYS[2], nonce) end
if per_network > 0 or in_all > 0 then add(KEYS[3], nonce) end
if in_all > 0 then
  add(KEYS[4], nonce)
  add(KEYS[5], network)
end
redis.call('SET', KEYS[6], kept, 'PX', string.format('%.0f', life))
return {'ok'}
