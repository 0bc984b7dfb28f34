#!lua flags=allow-oom
-- uses: prelude audit
-- change: write records of the directory in one step, if the part of it that they belong to still has the version that the
-- caller saw; raise the version; append the audit entry, and what is to be told. Moves no money.
-- KEYS  version ('' in ARGV[1]: any), audit log, journal, outbox; then one per write
-- ARGV  1 expected version ('' any), 2 org, 3 audit body ('' none), 4 kind of the event ('' none), 5 its data; then per
--       write: verb and its words, separated by \31: hset field value ... | hsetnx field value | hincrby field amount |
--       hdel field ... | sadd member | srem member | zadd score member | zrem member | set value | pexpireat ms | del
-- reply the new version, or -1 when it was another one

local expected, org, body = ARGV[1], name_of(ARGV[2], 'org'), ARGV[3]
local now, version = now_ms(), call('GET', KEYS[1]) or '0'
if expected ~= '' and version ~= expected then return -1 end
local verbs = {hset = 'HSET', hsetnx = 'HSETNX', hincrby = 'HINCRBY', hdel = 'HDEL', sadd = 'SADD',
  srem = 'SREM', zadd = 'ZADD', zrem = 'ZREM', set = 'SET', pexpireat = 'PEXPIREAT', del = 'DEL'}
local writes = {}
for i = 5, #KEYS do
  local words = {}
  for word in string.gmatch((ARGV[i + 1] or '') .. '\31', '([^\31]*)\31') do words[#words + 1] = word end
  if not verbs[words[1]] then fail('no such verb') end
  -- The type is seen before anything is written.
  local kind = call('TYPE', KEYS[i]).ok
  local wanted = {h = 'hash', s = 'set', z = 'zset'}
  local needs = words[1] == 'set' and 'string' or wanted[string.sub(words[1], 1, 1)]
  if needs and kind ~= 'none' and kind ~= needs then fail('corrupt: directory') end
  writes[#writes + 1] = {verbs[words[1]], KEYS[i], words}
end
call('XLEN', KEYS[2])
call('XLEN', KEYS[3])
call('XLEN', KEYS[4])

local raised = call('INCR', KEYS[1])
for _, write in ipairs(writes) do call(write[1], write[2], unpack(write[3], 2)) end
if body ~= '' then audit(KEYS[2], KEYS[3], now, org, body) end
if ARGV[4] ~= '' then tell(KEYS[4], ARGV[4], now, org, string.sub(ARGV[5], 2, -2)) end
return raised
