#!lua flags=allow-oom
-- uses: prelude
-- trim: forget the journal up to a number that is safe elsewhere, and write an `opening` entry with the totals up to there, and
-- with the last entry of the audit log that the journal knew of: what is cut off there is found without the journal's files.
-- Opening entries alone are left, so that trimming does not feed itself. A gap in the numbers is an error.
-- KEYS  journal, opening
-- ARGV  1 the last number that is safe elsewhere, 2 most entries to sum in one step
-- reply {'trimmed', number up to which the journal is forgotten}

local acknowledged, most = int(ARGV[1], 'acknowledged'), int(ARGV[2], 'most')
local now = now_ms()
local v = call('HMGET', KEYS[2], 'through', 'available', 'held', 'credited', 'posted', 'debt', 'audit', 'audit_digest')
local through, totals = stored(v[1], 'through'), {}
for i = 1, 5 do totals[i] = stored(v[i + 1], 'totals') end
local upto = math.min(acknowledged, through + most)
if upto <= through then return {'trimmed', through} end

local moved, audited, digest = false, v[7], v[8]
local entries = call('XRANGE', KEYS[1], '0-' .. digits(through + 1), '0-' .. digits(upto))
if #entries ~= upto - through then fail('a gap in the journal, or a number that it has not reached') end
for _, entry in ipairs(entries) do
  local kind, rest = string.match(entry[2][2], '^(%S+) %S+ %S+ %S+ (.*)$')
  if kind == 'audit' then
    audited, digest = string.match(entry[2][2], ' audit:(%d+) .* digest=(%x+)$')
    if not audited then fail('corrupt: journal') end
  end
  if kind ~= 'opening' then
    moved = true
    local i = 1
    for number in string.gmatch(rest or '', '%S+') do
      if i > 5 then break end
      totals[i] = totals[i] + stored(number, 'journal')
      if math.abs(totals[i]) > EXACT then fail('totals leave the exact range') end
      i = i + 1
    end
    if i ~= 6 then fail('corrupt: journal') end
  end
end
if not moved then return {'trimmed', through} end

for i = 1, 5 do totals[i] = digits(totals[i]) end
local more = audited and ' audit=' .. audited .. ' digest=' .. digest or ''
journal(KEYS[1], 'opening', now, '-', digits(upto), table.concat(totals, ' '), more)
call('XTRIM', KEYS[1], 'MINID', '0-' .. digits(upto + 1))
call('HSET', KEYS[2], 'through', digits(upto), 'available', totals[1], 'held', totals[2], 'credited', totals[3],
  'posted', totals[4], 'debt', totals[5])
if audited then call('HSET', KEYS[2], 'audit', audited, 'audit_digest', digest) end
return {'trimmed', upto}
