#!lua flags=allow-oom
-- uses: prelude audit
-- change: write records of the directory in one step, if the part of it that they belong to still has the version that the
-- caller saw; raise the version; append the audit entry, and what is to be told. Moves no money.
-- KEYS  version ('' in ARGV[1]: any), audit log, journal, outbox; then one per write
-- ARGV  1 expected version ('' any), 2 org, 3 audit body ('' none), 4 kind of the event ('' none), 5 its data; then per
--       write: verb and its words, separated by \31: hset field value ... | hsetnx field value | hincrby field amount |
--       hdel field ... | sadd member | srem member | zadd score member | zrem member | set value | pexpireat ms | del
-- reply the new version, or -1 when it was another one

-- Of each verb: the command, the type of its key ('' any), the fewest and the most words after it.
local VERBS = {hset = {'HSET', 'hash', 2, 1000}, hsetnx = {'HSETNX', 'hash', 2, 2}, hincrby = {'HINCRBY', 'hash', 2, 2},
  hdel = {'HDEL', 'hash', 1, 1000}, sadd = {'SADD', 'set', 1, 1}, srem = {'SREM', 'set', 1, 1}, zadd = {'ZADD', 'zset', 2, 2},
  zrem = {'ZREM', 'zset', 1, 1}, set = {'SET', 'string', 1, 1}, pexpireat = {'PEXPIREAT', '', 1, 1}, del = {'DEL', '', 0, 0}}
local expected, org, body, kind, data = ARGV[1], name_of(ARGV[2], 'org'), ARGV[3], ARGV[4], ARGV[5]
if #KEYS < 4 or #ARGV ~= #KEYS + 1 then fail('as many writes in KEYS as in ARGV') end
if kind ~= '' then name_of(kind, 'event') end
local now, version = now_ms(), call('GET', KEYS[1]) or '0'
if expected ~= '' and version ~= expected then return -1 end
int(version, 'version')
for i = 2, 4 do call('XLEN', KEYS[i]) end
local last_digest, number
if body ~= '' then last_digest, number = last_audited(KEYS[2], KEYS[3]) end

-- Everything that a write could fail on is seen before the first one: the type that its key has by then, and its numbers.
local found, types, values, writes = {}, {[KEYS[2]] = 'stream', [KEYS[3]] = 'stream', [KEYS[4]] = 'stream'}, {}, {}
local function whole(value, most_digits)
  if not find(value, '^%-?%d+$') or #value > most_digits then fail('not an amount') end
end
for i = 5, #KEYS do
  local key, words = KEYS[i], {}
  for word in string.gmatch(ARGV[i + 1] .. '\31', '([^\31]*)\31') do words[#words + 1] = word end
  local verb = VERBS[words[1]] or fail('no such verb')
  if #words - 1 < verb[3] or #words - 1 > verb[4] then fail('too few words, or too many: ' .. words[1]) end
  found[key] = found[key] or call('TYPE', key).ok
  local type_of = types[key] or found[key]
  if verb[2] ~= '' and type_of ~= 'none' and type_of ~= verb[2] then fail('corrupt: directory') end
  types[key] = words[1] == 'del' and 'none' or type_of == 'none' and verb[2] ~= '' and verb[2] or type_of
  if words[1] == 'hset' or words[1] == 'hsetnx' then
    if #words % 2 == 0 then fail('a field without a value') end
    for j = 2, #words, 2 do values[key .. '\31' .. words[j]] = words[j + 1] end
  elseif words[1] == 'hincrby' then
    local there = found[key] == 'hash' and call('HGET', key, words[2])
    whole(words[3], 15)
    whole(there or '0', 16)
    whole(values[key .. '\31' .. words[2]] or '0', 16)
  elseif words[1] == 'zadd' or words[1] == 'pexpireat' then
    int(words[2], words[1])
  end
  writes[#writes + 1] = {verb[1], key, words}
end

if body ~= '' then audit(KEYS[2], KEYS[3], now, org, body, last_digest, number) end
local raised = call('INCR', KEYS[1])
for _, write in ipairs(writes) do call(write[1], write[2], unpack(write[3], 2)) end
if kind ~= '' then tell(KEYS[4], kind, now, org, string.sub(data, 2, -2)) end
return raised
