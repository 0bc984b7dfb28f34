#!lua flags=allow-oom
-- uses: prelude holding settle
-- post: charge `cost` and end the hold. On an expired hold the difference is taken as late_post; on an unknown hold the
-- whole as orphan_post; once each. A hold that has ended answers as it ended.
-- KEYS  account, hold, open holds, journal; then the keys of the hold's scopes
-- ARGV  1 hold id, 2 account id, 3 cost, 4 outcome, 5 retention ms, 6 tokens 'input cached output', for the usage ('' none)
-- reply {'ended', state, posted, shortfall, available, replayed 0|1, pockets...} | {'foreign' | 'no_account', available, held}
--       | {'keys', ...}: come again with these scope keys

local id, account_id = name_of(ARGV[1], 'hold'), name_of(ARGV[2], 'account')
local cost, outcome, retention = int(ARGV[3], 'cost'), ARGV[4], int(ARGV[5], 'retention')
if not outcome or retention == 0 then fail('outcome and retention') end
local hold, now = hold_of(KEYS[2]), now_ms()
local account = account_of(KEYS[1])
call('ZSCORE', KEYS[3], id)
if not account then return {'no_account', 0, 0} end
if hold and hold[ACCOUNT] ~= account_id then return {'foreign', account.available, account.held} end

if hold and hold[STATE] == 'open' then
  local counters = counters_of(hold, 5)
  if not counters then return keys_reply(hold) end
  return settle(id, hold, account, counters, now, 'posted', cost, outcome, retention, ARGV[6])
end
if hold and (hold[STATE] ~= 'expired' or hold[COST] >= 0) then
  local same = hold[STATE] == 'voided' or hold[COST] == cost
  return same and posted_reply(hold, account, 1) or {'foreign', account.available, account.held}
end

local kind, counters = 'late_post', {}
if hold then
  counters = counters_of(hold, 5)
  if not counters then return keys_reply(hold) end
else
  kind = 'orphan_post'
  -- No place ever asked for it, and none that comes late is the same: its `first` is -1.
  hold = {'posted', account_id, 0, -1, cost, 0, 0, 0, 0, account.rate, '', '', now, now, 0, now, now, {}, {}, '', '', cost, cost}
end
local payable = math.min(cost, hold[CEILING])
for _, counter in ipairs(counters) do
  -- An approval buys one hold: where it has bought another since, nobody has agreed to this one.
  if counter.quote and counter.quote[1] == 'used' and counter.quote[2] ~= id then payable = hold[POSTED] end
end
local extra = math.max(payable - hold[POSTED], 0)
if extra > 0 then extra = math.min(extra, room_of(account, counters, now)) end
local paid = {}
for i, part in ipairs(hold[SPLIT]) do paid[i] = -part end
take(account, hold[SPLIT], extra)
for i, part in ipairs(hold[SPLIT]) do paid[i] = (paid[i] or 0) + part end
local counted = hold[SHORTFALL] > 0
hold[POSTED] = hold[POSTED] + extra
hold[SHORTFALL], hold[COST], hold[OUTCOME] = math.max(cost - hold[POSTED], 0), cost, outcome
local more = hold[SHORTFALL] > 0 and ' shortfall=' .. digits(hold[SHORTFALL]) or ''
for i, counter in ipairs(counters) do
  if counter.gone and (counter.measure == 'm' or counter.measure == 'u') then more = more .. ' scope_lost=' .. i end
  counter.used = counter.used + (counter.measure == 'm' and extra or hold[EARNED] == 0 and 1 or 0)
  if counter.measure == 'y' then
    add_usage(counter, hold[EARNED] == 0 and 1 or 0, ARGV[6] or '', extra, paid)
  else
    weigh_thresholds(counter, now)
  end
end

journal(KEYS[4], kind, now, account_id, id, '-' .. digits(extra) .. ' 0 0 ' .. digits(extra) .. ' 0', more)
save_account(KEYS[1], account)
if payable > hold[POSTED] and not counted then
  call('HSET', KEYS[1], 'shortfalls', digits(account.shortfalls + 1))
end
call('SET', KEYS[2], cmsgpack.pack(hold), 'PX', digits(retention))
for _, counter in ipairs(counters) do
  if counter.measure == 'y' then
    save_usage(counter)
  elseif counter.measure == 'q' then
    if counter.quote[1] == 'approved' then call('HSET', counter.key, 'state', 'used', 'hold', id) end
  elseif counter.measure == 'm' or counter.measure == 'u' then
    save_counter(counter)
    tell_thresholds(counter, now)
  end
end
return posted_reply(hold, account, 0)
